//! What only a real Kafka can show: partitions, retention, times.

use std::time::{Duration, SystemTime};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use runmesh_bus::Record;
use runmesh_event_log::VerifyOptions;
use runmesh_events::{Event, EventType, from_timestamp};
use runmesh_proto::event_log::{FindingKind, FindingSeverity};

use crate::{
    mesh::{GROUPS, IMPATIENT, Mesh, PATIENT},
    samples::{TOPICS, id, output, whole},
};

/// When an event was recorded.
pub(crate) fn time_of(event: &Event) -> SystemTime {
    from_timestamp(event.occurred_at.as_ref().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_on_kafka_closes_and_each_loss_is_found() {
    let mesh = Mesh::on_kafka().await;
    mesh.run(20).await;
    mesh.relay().await;
    let outcome = mesh.verify(PATIENT).await;
    assert!(outcome.findings.is_empty() && !outcome.ledger.settled, "{outcome:#?}");
    assert_eq!((outcome.group("first").pending, outcome.group("first").records), (140, 140));
    mesh.handle().await;
    let outcome = mesh.verify(IMPATIENT).await;
    outcome.is_clean();
    assert_eq!(outcome.topic("execution_output").published, 60);
    assert_eq!(outcome.group("second").handled, 140);

    let since = {
        let last = SystemTime::now();
        while SystemTime::now() < last + Duration::from_millis(2) {
            tokio::task::yield_now().await;
        }
        SystemTime::now()
    };
    let events = mesh.append(&id(), whole()).await;
    mesh.mark(&events[3]).await;
    mesh.relay().await;
    mesh.publish(vec![Record::of(&events[4]).unwrap()]).await;
    mesh.handle().await;
    mesh.remove(&events[6]);
    for options in [PATIENT, VerifyOptions { since: Some(since), ..PATIENT }] {
        let outcome = mesh.verify(options.clone()).await;
        assert_eq!(outcome.kinds(), [FindingKind::Missing, FindingKind::Foreign, FindingKind::Repeated]);
        assert_eq!(outcome.one(FindingKind::Missing).event_id, events[3].event_id);
        assert_eq!(outcome.one(FindingKind::Foreign).event_id, events[6].event_id);
        assert_eq!(outcome.one(FindingKind::Repeated).event_id, events[4].event_id);
        let records = outcome.topic("execution_output").records;
        assert_eq!(records, if options.since.is_some() { 3 } else { 63 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_expire_unread_are_a_loss_and_those_that_were_read_are_not() {
    let mesh = Mesh::on_kafka().await;
    let ids = mesh.run(10).await;
    mesh.relay().await;
    mesh.handle().await;
    // In partitions in which the groups have a place already.
    for id in &ids {
        mesh.append(id, vec![output("late")]).await;
    }
    mesh.relay().await;
    let extents = mesh.bus.extents(&[EventType::ExecutionOutput]).await.unwrap();
    let committed = mesh.bus.committed(GROUPS[0], &TOPICS).await.unwrap();
    // All of the first partition that has unread records expires; of the others what was read.
    let next_of = |lane| committed.iter().find(|(known, _)| *known == lane).map_or(0, |(_, next)| *next);
    let victim = extents.iter().find(|extent| next_of(extent.lane) < extent.next).unwrap();
    let mut places = TopicPartitionList::new();
    for extent in &extents {
        let until = if extent.lane == victim.lane { extent.next } else { next_of(extent.lane) };
        let until = Offset::Offset(until as i64);
        places.add_partition_offset("execution_output", extent.lane.partition, until).unwrap();
    }
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", mesh.brokers()).create().unwrap();
    admin.delete_records(&places, &AdminOptions::new()).await.unwrap();

    let outcome = mesh.verify(PATIENT).await;
    let found: Vec<_> = outcome.findings.iter().filter(|found| found.kind() == FindingKind::ExpiredUnread).collect();
    assert_eq!(found.len(), 2, "one for each group: {found:#?}");
    let lost = victim.next - next_of(victim.lane);
    for (finding, group) in found.iter().zip(["first", "second"]) {
        assert_eq!((finding.severity(), finding.group.as_str()), (FindingSeverity::Loss, group));
        assert_eq!(finding.partition, Some(victim.lane.partition));
        assert!(finding.message.starts_with(&format!("{lost} records")), "{} {lost}", finding.message);
    }
    // The store's events are younger than the topic should keep them, so those records are missing too.
    assert!(outcome.topic("execution_output").missing > 0);
    assert_eq!(outcome.kinds(), [FindingKind::Missing, FindingKind::ExpiredUnread]);
}
