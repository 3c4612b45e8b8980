//! The topics against the store.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use runmesh_bus::{RELAY, Record, header};
use runmesh_event_log::VerifyOptions;
use runmesh_events::{AggregateId, Catalog, Event, EventId, EventType, to_timestamp};
use runmesh_proto::event_log::{Finding, FindingKind, FindingSeverity};

use crate::{
    mesh::{IMPATIENT, Mesh, PATIENT},
    remote::MAX_VALUE,
    samples::{completed, id, output, requested, whole},
};

const LIMIT: Duration = Duration::from_secs(60);

/// The finding is about this event.
fn is_about(finding: &Finding, event: &Event, topic: &str) {
    assert_eq!((finding.topic.as_str(), finding.event_id.as_str()), (topic, event.event_id.as_str()));
    assert_eq!((finding.aggregate_id.as_str(), finding.sequence), (event.aggregate_id.as_str(), event.sequence as i64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_is_well_nothing_is_found_and_the_ledger_is_complete() {
    let mesh = Mesh::new();
    mesh.run(3).await;
    mesh.relay().await;
    mesh.handle().await;
    // Impatient: what is done is not on its way.
    let outcome = mesh.verify(IMPATIENT).await;
    outcome.is_clean();
    let logs = outcome.logs();
    assert_eq!((logs.events, logs.aggregates, logs.executions, logs.ended, logs.pending), (21, 3, 3, 3, 0));
    assert_eq!(outcome.ledger.topics.len(), 5);
    let output = outcome.topic("execution_output");
    assert_eq!((output.in_store, output.published, output.records), (9, 9, 9));
    for group in ["first", "second"] {
        let group = outcome.group(group);
        assert_eq!((group.records, group.handled, group.pending, group.dead_letters), (21, 21, 0, 0));
        assert_eq!(group.topics.len(), 5);
    }
    assert_eq!(outcome.stages.first().map(String::as_str), Some("logs"));
    assert!(outcome.stages.iter().any(|stage| stage == "execution_output"), "{:?}", outcome.stages);
    let took = outcome.ledger.took.unwrap();
    assert!(took.seconds > 0 || took.nanos > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_marked_but_was_not_published_is_missing() {
    let mesh = Mesh::new();
    mesh.run(1).await;
    let other = mesh.append(&id(), whole()).await;
    mesh.mark(&other[4]).await;
    mesh.relay().await;
    mesh.handle().await;
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Missing]);
    let finding = outcome.one(FindingKind::Missing);
    assert_eq!(finding.severity(), FindingSeverity::Loss);
    is_about(finding, &other[4], "execution_output");
    let topic = outcome.topic("execution_output");
    assert_eq!((topic.in_store, topic.published, topic.missing), (6, 5, 1));
    assert!(!outcome.ledger.sound && outcome.ledger.settled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_event_the_store_lost_is_foreign() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), vec![requested(LIMIT), completed(), output("late")]).await;
    mesh.relay().await;
    mesh.handle().await;
    // The last of its log: the log itself looks whole.
    mesh.remove(&events[2]);
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Foreign]);
    let finding = outcome.one(FindingKind::Foreign);
    assert_eq!(finding.severity(), FindingSeverity::Loss);
    is_about(finding, &events[2], "execution_output");
    assert!(finding.offset.is_some() && finding.partition.is_some());
    assert_eq!(outcome.topic("execution_output").foreign, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_is_no_loss_also_where_the_same_id_is_in_use_again() {
    let mesh = Mesh::new();
    let ids = mesh.run(2).await;
    mesh.relay().await;
    for id in &ids {
        mesh.store.delete_aggregate(&AggregateId::from(id.as_str())).await.unwrap();
    }
    mesh.append(&ids[0], whole()).await;
    mesh.relay().await;
    mesh.handle().await;
    let outcome = mesh.verify(PATIENT).await;
    outcome.is_clean();
    let topic = outcome.topic("execution_output");
    assert_eq!((topic.in_store, topic.published, topic.records, topic.deleted), (3, 3, 9, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_twice_is_told_and_does_no_harm() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), whole()).await;
    mesh.relay().await;
    // As a relay does after a crash: in order, some of them again.
    mesh.publish(events[3..5].iter().map(|event| Record::of(event).unwrap()).collect()).await;
    mesh.publish(vec![Record::of(&events[3]).unwrap()]).await;
    mesh.handle().await;
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Repeated]);
    assert_eq!(outcome.findings.len(), 2, "each event once");
    assert!(outcome.findings.iter().all(|finding| finding.severity() == FindingSeverity::Info));
    is_about(&outcome.findings[0], &events[3], "execution_output");
    let topic = outcome.topic("execution_output");
    assert_eq!((topic.in_store, topic.published, topic.records, topic.repeated), (3, 3, 6, 3));
    assert!(outcome.ledger.sound && outcome.ledger.settled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_published_yet_is_pending_and_after_a_while_a_warning() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), vec![requested(LIMIT), completed()]).await;
    let outcome = mesh.verify(PATIENT).await;
    assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    assert!(outcome.ledger.sound && !outcome.ledger.settled);
    assert_eq!(outcome.topic("execution_completed").pending, 1);

    let outcome = mesh.verify(IMPATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Unpublished]);
    assert_eq!(outcome.findings.len(), 2);
    assert_eq!(outcome.findings[1].severity(), FindingSeverity::Warning);
    is_about(&outcome.findings[0], &events[0], "execution_requested");
    assert!(outcome.ledger.sound && !outcome.ledger.settled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_bus_refused_is_parked() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), vec![requested(LIMIT), output(vec![7; MAX_VALUE + 1]), completed()]).await;
    mesh.relay().await;
    mesh.handle().await;
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Parked, FindingKind::DeadLetters]);
    let finding = outcome.one(FindingKind::Parked);
    assert_eq!(finding.severity(), FindingSeverity::Warning);
    is_about(finding, &events[1], "execution_output");
    assert!(finding.message.contains("over the limit"), "{}", finding.message);
    let topic = outcome.topic("execution_output");
    assert_eq!((topic.in_store, topic.published, topic.parked), (1, 0, 1));
    assert_eq!(outcome.group(RELAY.as_str()).dead_letters, 1);
    assert!(outcome.ledger.sound && outcome.ledger.settled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_older_than_the_topic_keeps_it_is_not_missed() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), vec![requested(LIMIT), completed()]).await;
    mesh.relay().await;
    let retention = Catalog::get().topic(EventType::ExecutionOutput).unwrap().retention;
    let late = mesh.append(&events[0].aggregate_id, vec![output("a")]).await.remove(0);
    mesh.mark(&late).await;
    mesh.handle().await;
    assert_eq!(mesh.verify(PATIENT).await.kinds(), [FindingKind::Missing]);

    let old = Event { occurred_at: Some(to_timestamp(SystemTime::now() - retention)), ..late.as_ref().clone() };
    let id = old.event_id.parse::<EventId>().unwrap();
    mesh.tamper(|file| {
        file.execute("UPDATE events SET body = ?1 WHERE event_id = ?2", (old.encode_to_vec(), id.as_bytes()))
    });
    let outcome = mesh.verify(PATIENT).await;
    outcome.is_clean();
    assert_eq!(outcome.topic("execution_output").expired, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_behind_a_later_one_of_its_key_is_reordered() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), whole()).await;
    let mut records: Vec<Record> = events.iter().map(|event| Record::of(event).unwrap()).collect();
    records.swap(3, 4);
    mesh.publish(records).await;
    for event in &events {
        mesh.mark(event).await;
    }
    mesh.handle().await;
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Reordered]);
    let finding = outcome.one(FindingKind::Reordered);
    assert_eq!(finding.severity(), FindingSeverity::Violation);
    is_about(finding, &events[3], "execution_output");
    assert!(!outcome.ledger.sound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_of_the_topic_is_a_warning() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), whole()).await;
    mesh.relay().await;
    let record = Record::of(&events[0]).unwrap();
    let garbage = Record { value: Bytes::from_static(b"\xff\xff\xff"), ..record.clone() };
    let elsewhere = Record { event_type: EventType::ExecutionStarted, ..record };
    mesh.publish(vec![garbage, elsewhere]).await;
    let outcome = mesh.verify(PATIENT).await;
    assert_eq!(outcome.kinds(), [FindingKind::Undecodable]);
    assert_eq!(outcome.findings.len(), 2);
    assert_eq!(outcome.findings[0].severity(), FindingSeverity::Warning);
    assert_eq!(outcome.findings[0].topic, "execution_requested");
    assert!(outcome.findings[1].message.contains("EVENT_TYPE_EXECUTION_REQUESTED"), "{:?}", outcome.findings[1]);
    assert_eq!(outcome.topic("execution_started").undecodable, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redrives_and_replays_are_no_second_publication() {
    let mesh = Mesh::new();
    let events = mesh.append(&id(), whole()).await;
    mesh.relay().await;
    let mut redrive = Record::of(&events[4]).unwrap();
    redrive.headers.push((header::REDRIVE_GROUP.to_owned(), Bytes::from_static(b"first")));
    let mut replay = Record::of(&events[3]).unwrap();
    replay.headers.push((header::REPLAY.to_owned(), Bytes::from_static(b"replay-1")));
    mesh.publish(vec![redrive, replay]).await;
    mesh.handle().await;
    let outcome = mesh.verify(IMPATIENT).await;
    outcome.is_clean();
    let topic = outcome.topic("execution_output");
    assert_eq!((topic.records, topic.published, topic.repeated, topic.delivered_again), (5, 3, 0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn findings_are_limited_but_all_are_counted() {
    let mesh = Mesh::new();
    let execution = id();
    mesh.append(&execution, vec![requested(LIMIT), completed()]).await;
    mesh.relay().await;
    for event in mesh.append(&execution, (0..5).map(|_| output("a")).collect()).await {
        mesh.mark(&event).await;
    }
    mesh.handle().await;
    let outcome = mesh.verify(VerifyOptions { max_findings: 2, ..PATIENT }).await;
    assert_eq!(outcome.findings.len(), 2);
    let count = &outcome.ledger.findings[0];
    assert_eq!((count.kind(), count.count, count.sent), (FindingKind::Missing, 5, 2));
    assert_eq!(outcome.topic("execution_output").missing, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_recorded_since_is_looked_at() {
    let mesh = Mesh::new();
    let early = mesh.append(&id(), whole()).await;
    mesh.relay().await;
    mesh.remove(&early[6]);
    mesh.publish(vec![Record::of(&early[0]).unwrap()]).await;
    let since = {
        // The next event is recorded in a later millisecond.
        let recorded = crate::kafka::time_of(&early[6]);
        while SystemTime::now() < recorded + Duration::from_millis(2) {
            tokio::task::yield_now().await;
        }
        SystemTime::now()
    };
    let late = mesh.append(&id(), whole()).await;
    mesh.mark(&late[4]).await;
    mesh.relay().await;
    mesh.handle().await;

    let whole = mesh.verify(PATIENT).await;
    assert_eq!(whole.kinds(), [FindingKind::Missing, FindingKind::Foreign, FindingKind::Repeated]);
    let outcome = mesh.verify(VerifyOptions { since: Some(since), ..PATIENT }).await;
    assert_eq!(outcome.kinds(), [FindingKind::Missing]);
    is_about(outcome.one(FindingKind::Missing), &late[4], "execution_output");
    let logs = outcome.logs();
    assert_eq!((logs.events, logs.executions, logs.ended), (7, 1, 1));
    assert_eq!(outcome.topic("execution_output").records, 2);
    assert!(outcome.ledger.since.is_some());
}
