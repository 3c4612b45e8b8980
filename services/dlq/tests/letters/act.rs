//! What operators do with single letters.

use std::sync::atomic::Ordering;

use runmesh_bus::{
    LetterState,
    conformance::{TOPIC, record},
};
use runmesh_events::EventType;
use runmesh_proto::{
    dlq::{
        DeadLetterState, DiscardDeadLettersRequest, EditAndRetryRequest, GetDeadLetterRequest, LetterResult,
        RetryDeadLettersRequest, Severity, dead_letter_service_server::DeadLetterService as _,
    },
    event::event::Payload,
};
use tonic::{Code, Request, Status};

use crate::mesh::Mesh;

async fn retry(mesh: &Mesh, ids: &[&str]) -> Result<Vec<LetterResult>, Status> {
    let dead_letter_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    let request = RetryDeadLettersRequest { dead_letter_ids, actor: "ann".into(), reason: "it is mended".into() };
    mesh.service.retry_dead_letters(Request::new(request)).await.map(|response| response.into_inner().results)
}

async fn discard(mesh: &Mesh, ids: &[&str]) -> Vec<LetterResult> {
    let dead_letter_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    let request = DiscardDeadLettersRequest { dead_letter_ids, actor: "bob".into(), reason: "it is void".into() };
    mesh.service.discard_dead_letters(Request::new(request)).await.unwrap().into_inner().results
}

fn codes(results: &[LetterResult]) -> Vec<&str> {
    results.iter().map(|result| if result.ok { "ok" } else { result.code.as_str() }).collect()
}

fn field(status: Status) -> Vec<String> {
    use tonic_types::StatusExt as _;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_retried_and_discarded_with_a_result_for_each() {
    let mut mesh = Mesh::failing().await;
    mesh.fails.permanent.store(true, Ordering::SeqCst);
    let first = mesh.bury(record(TOPIC, "order-1", 1)).await;
    let second = mesh.bury(record(TOPIC, "order-2", 1)).await;
    assert_eq!(first.state, LetterState::Parked);
    mesh.recover();
    mesh.run();
    let results = retry(&mesh, &[&first.id, "nobody", &first.id]).await.unwrap();
    assert_eq!(codes(&results), ["ok", "NOT_FOUND", "RETRYING"]);
    mesh.until(&first.id, |letter| letter.state == LetterState::Resolved).await;
    assert_eq!(codes(&retry(&mesh, &[&first.id]).await.unwrap()), ["OVER"]);
    assert_eq!(codes(&discard(&mesh, &[&second.id, &first.id, "nobody"]).await), ["ok", "OVER", "NOT_FOUND"]);
    let discarded = mesh.until(&second.id, |letter| letter.pending.is_none()).await;
    assert_eq!((discarded.state, discarded.by.as_str()), (LetterState::Discarded, "bob"));
    assert_eq!(mesh.probe.of("order-2"), [1]);
    let retried = mesh.told(EventType::DlqMessageRetried).await;
    let Some(Payload::DlqMessageRetried(told)) = &retried[0].payload else { panic!() };
    assert_eq!((told.actor.as_str(), told.reason.as_str(), told.retry_count), ("ann", "it is mended", 1));
    let gone = mesh.told(EventType::DlqMessageDiscarded).await;
    assert_eq!(gone.len(), 1);
    let Some(Payload::DlqMessageDiscarded(told)) = &gone[0].payload else { panic!() };
    assert_eq!((told.actor.as_str(), told.reason.as_str()), ("bob", "it is void"));
    assert_eq!(mesh.told(EventType::DlqMessageReceived).await.len(), 2);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_and_why_have_to_be_told() {
    let mesh = Mesh::failing().await;
    let nothing = RetryDeadLettersRequest::default();
    let refused = mesh.service.retry_dead_letters(Request::new(nothing)).await.unwrap_err();
    assert_eq!(field(refused), ["actor", "reason", "dead_letter_ids"]);
    let edit = EditAndRetryRequest { dead_letter_id: "x".into(), ..Default::default() };
    let refused = mesh.service.edit_and_retry(Request::new(edit)).await.unwrap_err();
    assert_eq!(field(refused), ["actor", "reason"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrected_payload_is_what_the_group_gets() {
    let mut mesh = Mesh::failing().await;
    let original = record(TOPIC, "order-1", 1);
    let letter = mesh.bury(original.clone()).await;
    mesh.recover();
    mesh.run();
    let edit = async |payload: &str| {
        let request = EditAndRetryRequest {
            dead_letter_id: letter.id.clone(),
            payload_json: payload.to_owned(),
            actor: "ann".into(),
            reason: "the name was wrong".into(),
        };
        mesh.service.edit_and_retry(Request::new(request)).await
    };
    for wrong in ["", "{", "[]", r#"{"podName": 7}"#, r#"{"nothing": "x"}"#, r#"{"executionId": "order-2"}"#] {
        assert_eq!(field(edit(wrong).await.unwrap_err()), ["payload_json"], "{wrong}");
    }
    edit(r#"{"executionId": "order-1", "podName": "mended"}"#).await.unwrap();
    mesh.until(&letter.id, |letter| letter.state == LetterState::Resolved).await;
    assert_eq!(edit("{}").await.unwrap_err().code(), Code::FailedPrecondition);
    let request = GetDeadLetterRequest { dead_letter_id: letter.id.clone() };
    let detail = mesh.service.get_dead_letter(Request::new(request)).await.unwrap().into_inner().detail.unwrap();
    assert_eq!(detail.raw_value, original.value);
    assert!(detail.edited_event_json.contains("mended") && !detail.event_json.contains("mended"), "{detail:?}");
    assert_eq!(detail.edited_by, "ann: the name was wrong");
    let shown = detail.dead_letter.unwrap();
    assert_eq!((shown.state(), shown.severity(), shown.edited), (DeadLetterState::Resolved, Severity::Transient, true));
    assert!(!detail.trace_id.is_empty() && detail.attempts.len() == 1);
    let retried = mesh.told(EventType::DlqMessageRetried).await;
    let Some(Payload::DlqMessageRetried(told)) = &retried[0].payload else { panic!() };
    assert!(told.edited);
    mesh.stop().await;
}

/// A record that is no event has only bytes; what is corrected of it is an event of its topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_no_event_can_be_corrected_too() {
    let mut mesh = Mesh::failing().await;
    mesh.recover();
    mesh.run();
    let broken = runmesh_bus::Record { value: b"\xff\xff nothing".as_slice().into(), ..record(TOPIC, "order-9", 3) };
    mesh.publish(vec![broken.clone()]).await;
    let letters = mesh.letters().await;
    let query = || runmesh_store::PageQuery { index: "by_time", limit: 10, ..Default::default() };
    runmesh_bus::conformance::until("it is kept", || async {
        !letters.page(query()).await.unwrap().documents.is_empty()
    })
    .await;
    let letter = letters.page(query()).await.unwrap().documents.remove(0).document;
    assert_eq!((letter.severity.as_str(), letter.state), ("poison", LetterState::Parked));
    assert!(mesh.probe.seen().is_empty());
    let request = EditAndRetryRequest {
        dead_letter_id: letter.id.clone(),
        payload_json: r#"{"executionId": "order-9"}"#.to_owned(),
        actor: "ann".into(),
        reason: "a disk was broken".into(),
    };
    mesh.service.edit_and_retry(Request::new(request)).await.unwrap();
    mesh.until(&letter.id, |letter| letter.state == LetterState::Resolved).await;
    assert_eq!(mesh.probe.seen(), [("order-9".to_owned(), 3)]);
    mesh.stop().await;
}
