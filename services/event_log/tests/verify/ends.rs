//! The ends of executions.

use std::time::Duration;

use runmesh_proto::{
    event::{ExecutionFailed, ExecutionRequested},
    event_log::{FindingKind, FindingSeverity},
};

use crate::{
    mesh::{IMPATIENT, Mesh, PATIENT},
    samples::{accepted, completed, id, queued, requested, started, whole},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_without_an_end_is_pending_within_its_limit_and_then_a_violation() {
    let mesh = Mesh::new();
    let (long, short) = (id(), id());
    mesh.append(&long, vec![requested(Duration::from_secs(3_600)), accepted(), started()]).await;
    mesh.append(&short, vec![requested(Duration::ZERO), accepted(), started()]).await;
    mesh.relay().await;
    mesh.handle().await;
    let outcome = mesh.verify(PATIENT).await;
    assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    assert_eq!((outcome.logs().executions, outcome.logs().pending), (2, 2));
    assert!(outcome.ledger.sound && !outcome.ledger.settled);

    let outcome = mesh.verify(IMPATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::NoEnd]);
    let finding = outcome.one(FindingKind::NoEnd);
    assert_eq!((finding.severity(), finding.aggregate_id.as_str()), (FindingSeverity::Violation, short.as_str()));
    assert!(!outcome.ledger.sound && !outcome.ledger.settled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_nobody_took_on_is_a_violation_and_one_in_the_queue_a_warning() {
    let mesh = Mesh::new();
    let (forgotten, waiting) = (id(), id());
    let limit = Duration::from_secs(3_600);
    mesh.append(&forgotten, vec![requested(limit)]).await;
    mesh.append(&waiting, vec![requested(limit), queued()]).await;
    mesh.relay().await;
    mesh.handle().await;
    assert!(mesh.verify(PATIENT).await.findings.is_empty());
    let outcome = mesh.verify(IMPATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::NoEnd, FindingKind::Waiting]);
    assert_eq!(outcome.one(FindingKind::NoEnd).aggregate_id, forgotten);
    let finding = outcome.one(FindingKind::Waiting);
    assert_eq!((finding.severity(), finding.aggregate_id.as_str()), (FindingSeverity::Warning, waiting.as_str()));
    assert_eq!(outcome.logs().pending, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_with_two_ends_is_a_violation() {
    let mesh = Mesh::new();
    let twice = id();
    mesh.append(&twice, whole()).await;
    mesh.append(&twice, vec![ExecutionFailed::default().into()]).await;
    // No execution: the same events in another kind of log.
    mesh.append("other", vec![ExecutionRequested::default().into(), completed(), completed()]).await;
    mesh.relay().await;
    mesh.handle().await;
    let outcome = mesh.verify(IMPATIENT).await;
    let failed = outcome.topic("execution_failed");
    assert_eq!((failed.in_store, failed.published), (1, 1));
    assert_eq!(outcome.kinds(), [FindingKind::SeveralEnds]);
    let finding = outcome.one(FindingKind::SeveralEnds);
    assert_eq!((finding.severity(), finding.aggregate_id.as_str()), (FindingSeverity::Violation, twice.as_str()));
    assert!(finding.message.contains("execution_completed, execution_failed"), "{}", finding.message);
    assert!(!outcome.ledger.sound && outcome.ledger.settled);
}
