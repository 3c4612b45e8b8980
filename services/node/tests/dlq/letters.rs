//! Letters: to list, show, deliver again, give up, correct, watch and export them; and policies.

use runmesh_rpc::status;
use serde_json::{Value, json};

use crate::fake::Fake;

const WHY: [&str; 2] = ["--reason", "fixed"];

fn letter(id: &str, state: &str) -> Value {
    json!({"deadLetterId": id, "state": state, "topic": "execution_requested", "group": "runner", "error": "no room"})
}

#[tokio::test]
async fn a_list_is_read_page_by_page_with_the_filter_of_the_flags() {
    let fake = Fake::start().await;
    let page = |id: &str, token: &str| {
        let letters = [letter(id, "DEAD_LETTER_STATE_PARKED")];
        json!({"deadLetters": letters, "nextPageToken": token})
    };
    fake.answer("ListDeadLetters", page("l1", "more"));
    fake.answer("ListDeadLetters", page("l2", ""));
    let arguments =
        ["ls", "--all", "--type", "execution_requested", "--group", "runner", "--state", "parked", "--oldest"];
    let table = fake.run(&arguments).await.ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("ID  STATE   TYPE"), "{table}");
    assert!(lines[1].starts_with("l1  parked") && lines[2].starts_with("l2  parked"), "{table}");
    let asked = fake.asked("ListDeadLetters");
    let filter = json!({
        "eventTypes": ["EVENT_TYPE_EXECUTION_REQUESTED"], "groups": ["runner"], "states": ["DEAD_LETTER_STATE_PARKED"],
    });
    let first = json!({"filter": filter, "pageSize": 1000, "orderBy": "last_failed_at"});
    assert_eq!(asked[0], first);
    assert_eq!(asked[1]["pageToken"], "more");

    // One object in a line, and no more than was asked for.
    fake.answer("ListDeadLetters", page("l3", "more"));
    let lines = fake.run(&["ls", "--json", "--limit", "1"]).await.lines();
    assert_eq!(lines, [letter("l3", "DEAD_LETTER_STATE_PARKED")]);
    fake.answer("ListDeadLetters", page("l3", "more"));
    let ran = fake.run(&["ls", "--limit", "1"]).await;
    assert!(ran.stderr.contains("--all"), "{ran:?}");
}

#[tokio::test]
async fn what_the_service_refuses_is_told_by_its_flag() {
    let fake = Fake::start().await;
    fake.stream("ListDeadLetters", [], Some(status::invalid_argument("filter.text", "is too long")));
    let said = fake.run(&["ls", "--text", "x"]).await.failed();
    assert_eq!(said, "runmesh: INVALID_ARGUMENT: --text: is too long\n");
}

#[tokio::test]
async fn causes_numbers_and_single_letters_are_shown() {
    let fake = Fake::start().await;
    fake.answer(
        "ListFailureGroups",
        json!({"failureGroups": [{"fingerprint": "f00", "open": "3", "hourly": ["0", "4"], "error": "no"}]}),
    );
    let table = fake.run(&["groups", "--type", "pod_created", "--closed"]).await.ok();
    assert!(table.contains("·█") && table.contains("f00"), "{table}");
    assert_eq!(
        fake.asked("ListFailureGroups"),
        [json!({"eventType": "EVENT_TYPE_POD_CREATED", "includeClosed": true, "pageSize": 50})]
    );

    let stats = json!({
        "topics": [{"topic": "pod_created", "state": "DEAD_LETTER_STATE_PARKED", "count": "7"}],
        "pausedGroups": [{"group": "runner", "node": "n1", "error": "down", "probes": 2}],
    });
    fake.answer("GetDlqStats", stats.clone());
    let table = fake.run(&["stats"]).await.ok();
    assert!(table.contains("pod_created  parked      7") && table.contains("PAUSED GROUP"), "{table}");
    fake.answer("GetDlqStats", stats.clone());
    assert_eq!(fake.run(&["stats", "--json"]).await.lines(), [stats]);

    let detail = json!({"deadLetter": letter("l1", "DEAD_LETTER_STATE_PARKED"), "rawValue": "AP8=", "offset": "9"});
    fake.answer("GetDeadLetter", json!({"detail": detail}));
    let shown = fake.run(&["show", "l1"]).await.ok();
    assert!(shown.contains("record: 2 bytes that are no event\n  \\x00\\xff\n"), "{shown}");
    fake.stream("GetDeadLetter", [], Some(status::not_found("dead letter", "l2")));
    let said = fake.run(&["show", "l2"]).await.failed();
    assert!(said.contains("NOT_FOUND") && said.contains("l2"), "{said}");
}

#[tokio::test]
async fn letters_are_delivered_again_or_given_up_by_somebody_for_a_reason() {
    let fake = Fake::start().await;
    let fine = json!({"deadLetterId": "l1", "ok": true});
    fake.answer("RetryDeadLetters", json!({"results": [fine]}));
    let table = fake.run(&["retry", "l1", "--reason", "fixed"]).await.ok();
    assert!(table.contains("l1  delivered again"), "{table}");
    let request = json!({"deadLetterIds": ["l1"], "actor": "tester", "reason": "fixed"});
    assert_eq!(fake.asked("RetryDeadLetters"), [request]);

    let over = json!({"deadLetterId": "l2", "code": "OVER", "message": "it is resolved"});
    fake.answer("DiscardDeadLetters", json!({"results": [fine, over]}));
    let ran = fake.run(&["discard", "l1", "l2", "--reason", "old", "--actor", "ada", "--json"]).await;
    assert_eq!(ran.code, Some(1), "one was not done: {ran:?}");
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [fine, over]);
    assert_eq!(fake.asked("DiscardDeadLetters")[0]["actor"], "ada");

    let said = fake.run_with(&["retry", "l1", "--reason", "fixed"], &[], "").await.failed();
    assert!(said.contains("--actor") && fake.asked("RetryDeadLetters").len() == 1, "{said}");
}

#[tokio::test]
async fn a_payload_is_corrected_in_the_editor_or_given() {
    let fake = Fake::start().await;
    let event = r#"{"eventId": "e1", "executionRequested": {"language": "pyhton"}}"#;
    let detail = json!({"detail": {"deadLetter": letter("l1", "DEAD_LETTER_STATE_PARKED"), "eventJson": event}});
    let edit = [&["edit", "l1"], &WHY[..]].concat();
    let editor = |command| [("USER", "tester"), ("EDITOR", command)];

    fake.answer("GetDeadLetter", detail.clone());
    fake.answer("EditAndRetry", json!({"deadLetter": letter("l1", "DEAD_LETTER_STATE_RETRYING")}));
    let table = fake.run_with(&edit, &editor("sed -i s/pyhton/python/"), "").await.ok();
    assert!(table.contains("l1  retrying"), "{table}");
    let asked = &fake.asked("EditAndRetry")[0];
    let payload: Value = serde_json::from_str(asked["payloadJson"].as_str().unwrap()).unwrap();
    assert_eq!(payload, json!({"language": "python"}));
    assert_eq!(
        (&asked["deadLetterId"], &asked["actor"], &asked["reason"]),
        (&json!("l1"), &json!("tester"), &json!("fixed"))
    );

    // What was written for nothing is kept.
    fake.answer("GetDeadLetter", detail.clone());
    fake.stream("EditAndRetry", [], Some(status::invalid_argument("payload_json", "has no script")));
    let said = fake.run_with(&edit, &editor("sed -i s/pyhton/ruby/"), "").await.failed();
    assert!(said.contains("--payload: has no script"), "{said}");
    let kept = said.split("your text is in ").nth(1).unwrap().split(", which").next().unwrap();
    assert!(kept.starts_with(fake.path().to_str().unwrap()), "{kept}");
    assert!(std::fs::read_to_string(kept).unwrap().contains("ruby"));

    fake.answer("GetDeadLetter", detail.clone());
    let said = fake.run_with(&edit, &editor("true"), "").await.failed();
    assert!(said.contains("nothing was changed"), "{said}");
    let said = fake.run(&edit).await.failed();
    assert!(said.contains("--payload"), "without an editor: {said}");

    fake.answer("EditAndRetry", json!({"deadLetter": letter("l1", "DEAD_LETTER_STATE_RETRYING")}));
    let given = [&edit[..], &["--payload", "-", "--json"]].concat();
    let lines = fake.run_with(&given, &[("USER", "tester")], "{\"language\": \"ruby\"}").await.lines();
    assert_eq!(lines, [letter("l1", "DEAD_LETTER_STATE_RETRYING")]);
    let said = fake.run_with(&given, &[("USER", "tester")], "{").await.failed();
    assert!(said.contains("not JSON") && fake.asked("EditAndRetry").len() == 3, "{said}");
}

#[tokio::test]
async fn a_watch_goes_on_from_its_cursor_when_the_node_goes_away() {
    let fake = Fake::start().await;
    let change = |cursor: &str| json!({"cursor": cursor, "deadLetter": letter(cursor, "DEAD_LETTER_STATE_PARKED")});
    let restarts = || Some(status::unavailable("restarts", std::time::Duration::ZERO));
    fake.stream("WatchDeadLetters", [change("c1")], restarts());
    fake.stream("WatchDeadLetters", [change("c2")], restarts());
    fake.stream("WatchDeadLetters", [change("c3")], Some(status::out_of_range("cursor", "is gone")));
    let ran = fake.run(&["watch", "--group", "runner", "--cursor", "c0"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("--cursor: is gone"), "{ran:?}");
    for id in ["c1", "c2", "c3"] {
        assert!(ran.stdout.contains(id), "{ran:?}");
    }
    let cursors: Vec<Value> = fake.asked("WatchDeadLetters").iter().map(|asked| asked["cursor"].clone()).collect();
    assert_eq!(cursors, ["c0", "c1", "c2"]);
}

#[tokio::test]
async fn an_export_is_there_when_it_is_whole() {
    let fake = Fake::start().await;
    // "1\n" and "2\n".
    let pieces = [json!({"contentType": "application/x-ndjson", "data": "MQo="}), json!({"data": "Mgo="})];
    fake.stream("ExportDeadLetters", pieces.clone(), None);
    assert_eq!(fake.run(&["export", "--state", "all"]).await.ok(), "1\n2\n");
    assert_eq!(fake.asked("ExportDeadLetters")[0]["filter"]["states"].as_array().unwrap().len(), 5);

    fake.stream("ExportDeadLetters", pieces.clone(), None);
    fake.run(&["export", "--out", "letters.ndjson"]).await.ok();
    assert_eq!(std::fs::read_to_string(fake.path().join("letters.ndjson")).unwrap(), "1\n2\n");

    fake.stream("ExportDeadLetters", pieces, Some(status::internal(&std::io::Error::other("on purpose"))));
    fake.run(&["export", "--out", "cut.ndjson"]).await.failed();
    assert!(!fake.path().join("cut.ndjson").exists());
    let said = fake.run(&["export", "--out", "nowhere/letters.ndjson"]).await.failed();
    assert!(said.contains("--out"), "{said}");
}

#[tokio::test]
async fn policies_are_listed_set_and_reset() {
    let fake = Fake::start().await;
    let entry = |overridden: bool| {
        json!({
            "eventType": "EVENT_TYPE_POD_CREATED", "overridden": overridden, "setBy": "ada",
            "policy": {"preset": "cautious", "maxRetries": 3, "firstWait": "60s", "maxWait": "600s", "multiplier": 3.0},
        })
    };
    fake.answer("ListRetryPolicies", json!({"policies": [entry(false), entry(true)]}));
    let table = fake.run(&["policy", "ls", "--overridden"]).await.ok();
    assert!(table.lines().count() == 2 && table.contains("pod_created  -      cautious        3"), "{table}");

    fake.answer("SetRetryPolicy", json!({"policy": entry(true)}));
    let set = ["policy", "set", "pod_created", "--group", "runner", "--preset", "cautious", "--keep-order"];
    fake.run(&[&set[..], &WHY].concat()).await.ok();
    assert_eq!(
        fake.asked("SetRetryPolicy"),
        [json!({
            "eventType": "EVENT_TYPE_POD_CREATED", "group": "runner", "actor": "tester", "reason": "fixed",
            "policy": {"preset": "cautious", "keepOrder": true},
        })]
    );

    fake.answer("GetRetryPolicy", json!({"policy": entry(true)}));
    assert_eq!(fake.run(&["policy", "get", "pod_created", "--json"]).await.lines(), [entry(true)]);
    fake.answer("ResetRetryPolicy", json!({"policy": entry(false)}));
    fake.run(&[&["policy", "reset", "pod_created"], &WHY[..]].concat()).await.ok();
    assert_eq!(fake.asked("ResetRetryPolicy")[0]["eventType"], "EVENT_TYPE_POD_CREATED");
}
