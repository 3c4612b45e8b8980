//! The logs by themselves.

use std::time::Duration;

use runmesh_proto::event_log::{FindingKind, FindingSeverity};

use crate::{
    mesh::{Mesh, PATIENT},
    samples::{id, output, whole},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_a_log_lost_leaves_a_hole() {
    let mesh = Mesh::new();
    mesh.run(1).await;
    let events = mesh.append(&id(), whole()).await;
    mesh.relay().await;
    mesh.handle().await;
    mesh.remove(&events[4]);
    let outcome = mesh.verify(PATIENT).await;
    // And its record has lost its event.
    assert_eq!(outcome.kinds(), [FindingKind::Foreign, FindingKind::Hole]);
    let hole = outcome.one(FindingKind::Hole);
    assert_eq!(hole.severity(), FindingSeverity::Loss);
    assert_eq!(hole.aggregate_id, events[0].aggregate_id);
    assert!(hole.message.contains("sequence 5"), "{}", hole.message);
    assert!(!outcome.ledger.sound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_first_event_has_a_hole() {
    let mesh = Mesh::new();
    let aggregate = "not-an-execution";
    let events = mesh.append(aggregate, vec![output("a"), output("b"), output("c")]).await;
    mesh.relay().await;
    mesh.handle().await;
    mesh.verify(PATIENT).await.is_clean();
    mesh.remove(&events[0]);
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Foreign, FindingKind::Hole]);
    assert!(outcome.one(FindingKind::Hole).message.contains("sequence 1 "), "{:?}", outcome.findings);
    assert_eq!(outcome.one(FindingKind::Hole).aggregate_id, aggregate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_goes_on_since_then_has_no_hole_before() {
    let mesh = Mesh::new();
    let execution = id();
    let events = mesh.append(&execution, whole()).await;
    let boundary = crate::kafka::time_of(&events[6]) + Duration::from_millis(2);
    while std::time::SystemTime::now() <= boundary {
        tokio::task::yield_now().await;
    }
    mesh.append(&execution, vec![output("late"), output("later")]).await;
    mesh.relay().await;
    mesh.handle().await;
    let outcome = mesh.verify(runmesh_event_log::VerifyOptions { since: Some(boundary), ..PATIENT }).await;
    outcome.is_clean();
    assert_eq!((outcome.logs().events, outcome.logs().executions), (2, 0));
}
