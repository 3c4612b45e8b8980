//! What the groups have done.

use std::sync::Arc;

use runmesh_bus::{
    Consumer, ConsumerGroup, HandlerError,
    conformance::{Probe, start, until},
};
use runmesh_events::EventType;
use runmesh_proto::event_log::{FindingKind, FindingSeverity};
use runmesh_store::EventStore as _;

use crate::{
    mesh::{GROUPS, IMPATIENT, Mesh, PATIENT},
    samples::TOPICS,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_group_has_not_done_with_is_pending_and_after_a_while_a_warning() {
    let mesh = Mesh::new();
    mesh.run(2).await;
    mesh.relay().await;
    mesh.handle().await;
    mesh.run(1).await;
    mesh.relay().await;
    let outcome = mesh.verify(PATIENT).await;
    assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    assert!(outcome.ledger.sound && !outcome.ledger.settled);
    let group = outcome.group("first");
    assert_eq!((group.records, group.handled, group.pending), (21, 14, 7));
    let topic = group.topics.iter().find(|topic| topic.topic == "execution_output").unwrap();
    assert_eq!((topic.handled, topic.pending), (6, 3));
    assert!(topic.oldest_pending.is_some());

    let outcome = mesh.verify(IMPATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Stalled]);
    assert_eq!(outcome.findings.len(), 10, "two groups in five topics");
    let finding = &outcome.findings[0];
    assert_eq!((finding.severity(), finding.group.as_str()), (FindingSeverity::Warning, "first"));
    assert!(!finding.topic.is_empty() && finding.offset.is_some());
    assert!(outcome.ledger.sound && !outcome.ledger.settled);
    mesh.handle().await;
    mesh.verify(IMPATIENT).await.is_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pending_is_counted_also_where_it_was_recorded_before() {
    let mesh = Mesh::new();
    mesh.run(2).await;
    mesh.relay().await;
    let options = runmesh_event_log::VerifyOptions { since: Some(std::time::SystemTime::now()), ..PATIENT };
    let outcome = mesh.verify(options).await;
    assert_eq!((outcome.group("first").pending, outcome.logs().events), (14, 0));
    assert!(!outcome.ledger.settled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_beyond_the_end_of_a_topic_is_a_violation() {
    let mesh = Mesh::new();
    mesh.run(1).await;
    mesh.relay().await;
    mesh.handle().await;
    let extent = mesh.bus.extents(&[EventType::ExecutionOutput]).await.unwrap().remove(0);
    let mut subscription = mesh.bus.subscribe(GROUPS[1], &TOPICS).await.unwrap();
    subscription.commit(&[(extent.lane, extent.next + 10)]).await.unwrap();
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Ahead]);
    let finding = outcome.one(FindingKind::Ahead);
    assert_eq!((finding.severity(), finding.group.as_str()), (FindingSeverity::Violation, "second"));
    assert_eq!((finding.topic.as_str(), finding.offset), ("execution_output", Some(extent.next as i64 + 11)));
}

/// The newest records of a store that is its own bus can be deleted: groups that had handled them are not ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_not_ahead_because_the_newest_events_were_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let config = runmesh_store::sqlite::SqliteConfig::new(folder.path().join("store.db"));
    let store = Arc::new(runmesh_store::SqliteStore::open(&config).unwrap());
    let bus = Arc::new(runmesh_bus::EmbeddedBus::new(store.as_ref().clone()));
    let aggregate = runmesh_events::AggregateId::from(crate::samples::id());
    let append = async || {
        let events = crate::samples::whole().into_iter().map(crate::samples::event).collect();
        store.append(&aggregate, runmesh_store::Expected::Any, events).await.unwrap();
    };
    let dependencies = runmesh_event_log::Dependencies {
        store: store.clone(),
        documents: store.clone(),
        bus: bus.clone(),
        groups: Arc::new(crate::mesh::table()),
    };
    let verifier = runmesh_event_log::Verifier::build(dependencies).await.unwrap();
    let handle = async |group| {
        let consumer = Consumer::new(bus.clone(), store.clone()).await.unwrap();
        let running = start(&consumer, ConsumerGroup::new(group, &TOPICS, Probe::accepting()));
        until("all is handled", async || {
            runmesh_bus::Bus::lag(bus.as_ref(), group, &TOPICS).await.unwrap().iter().all(|lag| lag.records == 0)
        })
        .await;
        running.stop().await;
    };
    append().await;
    for group in GROUPS {
        handle(group).await;
    }
    let outcome = crate::outcome::Outcome::of(verifier.verify(IMPATIENT)).await;
    outcome.is_clean();
    assert_eq!(outcome.topic("execution_output").published, 3, "what is appended is on its topic");
    store.delete_aggregate(&aggregate).await.unwrap();
    let outcome = crate::outcome::Outcome::of(verifier.verify(IMPATIENT)).await;
    outcome.is_clean();
    append().await;
    let outcome = crate::outcome::Outcome::of(verifier.verify(PATIENT)).await;
    assert_eq!((outcome.group("first").records, outcome.group("first").pending), (7, 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_outcomes_and_are_counted() {
    let mesh = Mesh::new();
    mesh.run(2).await;
    mesh.relay().await;
    let probe = Probe::new(|incoming| async move {
        match incoming.delivery.event_type {
            EventType::ExecutionOutput => Err(HandlerError::permanent("refused")),
            _ => Ok(()),
        }
    });
    let running = start(&mesh.consumer().await, ConsumerGroup::new(GROUPS[0], &TOPICS, probe));
    mesh.all_handled(GROUPS[0]).await;
    running.stop().await;
    mesh.handle().await;
    let outcome = mesh.verify(IMPATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::DeadLetters]);
    let finding = outcome.one(FindingKind::DeadLetters);
    assert_eq!((finding.severity(), finding.group.as_str()), (FindingSeverity::Info, "first"));
    assert_eq!((finding.topic.as_str(), finding.message.as_str()), ("execution_output", "6 dead letters are kept"));
    let group = outcome.group("first");
    assert_eq!((group.handled, group.pending, group.dead_letters), (14, 0, 6));
    assert_eq!(outcome.group("second").dead_letters, 0);
    assert!(outcome.ledger.sound && outcome.ledger.settled);
}
