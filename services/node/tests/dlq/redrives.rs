//! Redrives: the whole of one, and its steps.

use std::time::Duration;

use runmesh_rpc::status;
use serde_json::{Value, json};

use crate::fake::Fake;

const WHOLE: [&str; 9] = ["redrive", "--type", "pod_created", "--rate", "10", "--canary", "5", "--reason", "fixed"];

fn redrive(state: &str, failed: u32) -> Value {
    let mut redrive = json!({"redriveId": "r1", "state": state, "planned": "20", "delivered": "20"});
    if failed > 0 {
        redrive["failed"] = json!(failed.to_string());
    }
    redrive
}

fn running(cursor: &str) -> Value {
    json!({"cursor": cursor, "redrive": redrive("REDRIVE_STATE_RUNNING", 0)})
}

fn ended(state: &str, failed: u32) -> Value {
    json!({"cursor": "end", "end": {"redrive": redrive(state, failed)}})
}

/// A plan, and a start.
async fn planned() -> Fake {
    let fake = Fake::start().await;
    let target = json!({"group": "runner", "count": "20", "outsideEffects": true});
    let plan = json!({"planToken": "t0ken", "count": "20", "targets": [target], "duration": "2s"});
    fake.answer("PlanRedrive", json!({"plan": plan}));
    fake.answer("StartRedrive", json!({"redrive": redrive("REDRIVE_STATE_CANARY", 0)}));
    fake
}

#[tokio::test]
async fn a_redrive_is_planned_started_and_followed_to_its_end() {
    let fake = planned().await;
    fake.stream("WatchRedrive", [running("c1")], Some(status::unavailable("restarts", Duration::ZERO)));
    fake.stream("WatchRedrive", [running("c2"), ended("REDRIVE_STATE_COMPLETED", 0)], None);
    let ran = fake.run(&[&WHOLE[..], &["--yes"]].concat()).await;
    assert!(ran.stderr.contains("running: 20 of 20 (100 %)"), "{ran:?}");
    let text = ran.ok();
    assert!(text.contains("runner       20  yes") && text.contains("takes 2s at this rate"), "{text}");
    assert!(text.trim_end().ends_with("completed: 20 of 20 (100 %), 20 delivered, 0 handled, 0 failed"), "{text}");
    assert_eq!(
        fake.asked("PlanRedrive"),
        [json!({"filter": {"eventTypes": ["EVENT_TYPE_POD_CREATED"]}, "rate": 10.0})]
    );
    let start = json!({"planToken": "t0ken", "rate": 10.0, "canary": 5, "actor": "tester", "reason": "fixed"});
    assert_eq!(fake.asked("StartRedrive"), [start]);
    let watched = fake.asked("WatchRedrive");
    assert_eq!(watched, [json!({"redriveId": "r1"}), json!({"redriveId": "r1", "cursor": "c1"})]);
}

#[tokio::test]
async fn a_redrive_that_did_not_handle_all_is_a_failure() {
    let stopped = json!({"cursor": "c1", "redrive": redrive("REDRIVE_STATE_STOPPED", 3)});
    for (last, words) in [
        (ended("REDRIVE_STATE_COMPLETED", 1), "completed: "),
        (ended("REDRIVE_STATE_CANCELLED", 0), "cancelled: "),
        (stopped, "redrive resume r1"),
    ] {
        let fake = planned().await;
        fake.stream("WatchRedrive", [last], None);
        let ran = fake.run(&[&WHOLE[..], &["--yes"]].concat()).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stdout.contains(words), "{ran:?}");
    }
}

#[tokio::test]
async fn an_interrupt_ends_the_watch_and_tells_that_the_redrive_goes_on() {
    let fake = Fake::start().await;
    fake.silence_after("WatchRedrive", [running("c1")]);
    let ran = fake.interrupt(&["redrive", "watch", "r1"]).await;
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.stderr.contains("goes on") && ran.stderr.contains("r1"), "{ran:?}");
    assert_eq!(fake.asked("CancelRedrive"), [] as [Value; 0]);
}

#[tokio::test]
async fn nothing_is_started_unasked() {
    let fake = planned().await;
    let said = fake.run(&WHOLE).await.failed();
    assert!(said.contains("--yes"), "{said}");
    let said = fake.run(&["redrive", "--reason", "fixed", "--yes"]).await.failed();
    assert!(said.contains("--type"), "a redrive of everything: {said}");
    fake.answer("PlanRedrive", json!({"plan": {}}));
    let text = fake.run(&[&WHOLE[..], &["--yes"]].concat()).await.ok();
    assert!(text.contains("nothing to deliver"), "{text}");
    assert_eq!(fake.asked("StartRedrive"), [] as [Value; 0]);
}

#[tokio::test]
async fn each_step_is_a_command_too() {
    let fake = planned().await;
    let text = fake.run(&["redrive", "plan", "--group", "runner"]).await.ok();
    assert!(text.contains("plan t0ken"), "{text}");
    let text = fake.run(&["redrive", "start", "t0ken", "--reason", "fixed", "--canary-failures", "2"]).await.ok();
    assert!(text.contains("redrive  r1"), "{text}");
    assert_eq!(fake.asked("StartRedrive")[0]["canaryFailures"], 2);

    for (verb, method, state) in [
        ("pause", "PauseRedrive", "REDRIVE_STATE_PAUSED"),
        ("resume", "ResumeRedrive", "REDRIVE_STATE_RUNNING"),
        ("cancel", "CancelRedrive", "REDRIVE_STATE_CANCELLED"),
    ] {
        fake.answer(method, json!({"redrive": redrive(state, 0)}));
        let lines = fake.run(&["redrive", verb, "r1", "--reason", "look", "--json"]).await.lines();
        assert_eq!(lines, [redrive(state, 0)]);
        assert_eq!(fake.asked(method), [json!({"redriveId": "r1", "actor": "tester", "reason": "look"})]);
    }

    fake.answer("GetRedrive", json!({"redrive": redrive("REDRIVE_STATE_PAUSED", 0)}));
    assert!(fake.run(&["redrive", "get", "r1"]).await.ok().contains("paused: "));
    fake.answer("ListRedrives", json!({"redrives": [redrive("REDRIVE_STATE_PAUSED", 0)]}));
    assert!(fake.run(&["redrive", "ls"]).await.ok().contains("r1  paused"));
    fake.stream("WatchRedrive", [running("c1"), ended("REDRIVE_STATE_COMPLETED", 0)], None);
    let lines = fake.run(&["redrive", "watch", "r1", "--json"]).await.lines();
    assert_eq!((lines.len(), &lines[1]["cursor"]), (2, &json!("end")));
}
