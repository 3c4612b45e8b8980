//! Members that come and go, and one that can't keep up.

use std::{collections::HashMap, sync::Arc, time::Duration};

use runmesh_bus::{
    Batch, Bus, Consumer, ConsumerGroup, HandlerError, KafkaBus,
    conformance::{Probe, TOPIC, record, start, until, within},
};
use runmesh_events::GroupName;
use runmesh_store::{SqliteStore, sqlite::SqliteConfig};
use tokio::sync::mpsc;

use crate::cluster::Cluster;

const GROUP: GroupName = GroupName::new("rebalance");

async fn publish(bus: &KafkaBus, sequence: u64) {
    let records = (0..24).map(|key| record(TOPIC, &format!("key-{key}"), sequence)).collect();
    for result in bus.publish(records).await {
        result.unwrap();
    }
}

/// While a second member joins, each event is handled once, and those of a key in order: what a member has in hand is
/// finished and committed before the partition moves. When the first leaves again, the second takes over, in order too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_moves_after_what_is_in_hand_is_finished() {
    // The mock cluster expels a member that a busy machine holds up for a second during a rebalance, and then others
    // rightly handle again what that one had in hand. A handover that does not wait repeats something each time.
    for _ in 0..3 {
        if join_and_leave().await == 0 {
            return;
        }
    }
    panic!("events were handled twice each time");
}

/// Returns how many events were handled again while both were members.
async fn join_and_leave() -> usize {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
    let cluster = Cluster::start();
    let bus = Arc::new(KafkaBus::open(cluster.config()).unwrap());
    let (tell, mut told) = mpsc::unbounded_channel();
    let member = |name: &'static str| {
        let tell = tell.clone();
        let probe = Probe::new(move |incoming| {
            let tell = tell.clone();
            async move {
                // Long enough that the others' records are in hand when partitions move.
                tokio::time::sleep(Duration::from_millis(2)).await;
                let event = &incoming.event;
                tell.send((name, event.aggregate_id.clone(), event.sequence)).unwrap();
                Ok::<(), HandlerError>(())
            }
        });
        let (bus, store) = (Arc::new(KafkaBus::open(cluster.config()).unwrap()), store.clone());
        async move {
            let consumer = Consumer::new(bus, Arc::new(store)).await.unwrap();
            (start(&consumer, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone())), probe)
        }
    };
    let (one, first) = member("one").await;
    let mut published = 0;
    let mut publish_until = async |what: &str, holds: &dyn Fn() -> bool| {
        let more = async {
            while !holds() {
                published += 1;
                publish(&bus, published).await;
                // A pace that the members can follow.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(what, more).await;
    };
    publish_until("the first member works", &|| !first.seen().is_empty()).await;
    let (two, second) = member("two").await;
    publish_until("the second member works", &|| second.seen().len() > 100).await;
    let before = first.seen().len();
    publish_until("the first member still works", &|| first.seen().len() > before + 100).await;
    one.stop().await;
    let after = second.seen().len();
    publish_until("the second goes on alone", &|| second.seen().len() > after + 500).await;
    until("all is committed", || async { bus.lag(GROUP, &[TOPIC]).await.unwrap()[0].records == 0 }).await;
    two.stop().await;

    let mut last: HashMap<String, u64> = HashMap::new();
    let mut by_member: HashMap<&str, usize> = HashMap::new();
    let (mut repeated, mut repeated_after) = (0, 0);
    while let Ok((name, key, sequence)) = told.try_recv() {
        *by_member.entry(name).or_default() += 1;
        let last = last.entry(key.clone()).or_default();
        // A member that ends does not begin what it has not begun, and so leaves what it finished behind that uncommitted.
        let has_left = by_member.get("one") == Some(&first.seen().len());
        match sequence {
            old if old <= *last && has_left => repeated_after += 1,
            old if old <= *last => repeated += 1,
            next => {
                assert_eq!(next, *last + 1, "{key}, by member {name}");
                *last = next;
            }
        }
    }
    assert!(last.len() == 24 && last.values().all(|sequence| *sequence == published), "{published}: {last:?}");
    assert!(by_member["one"] > 100 && by_member["two"] > 100, "{by_member:?}");
    assert!(repeated_after < 64, "{repeated_after}");
    repeated
}

/// A consumer that does not ask for a long time does not fill the memory, and then gets everything, once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_gets_everything_in_order() {
    const RECORDS: usize = 24_000;
    let cluster = Cluster::start();
    let bus = KafkaBus::open(cluster.config()).unwrap();
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    for sequence in 1..=(RECORDS as u64 / 24) {
        publish(&bus, sequence).await;
    }
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut count = 0;
    while count < RECORDS {
        let Batch::Records(records) = within("records come", subscription.next()).await.unwrap() else { continue };
        for delivery in records {
            let event = delivery.event().unwrap();
            let previous = last.insert(event.aggregate_id.clone(), event.sequence).unwrap_or_default();
            assert_eq!(event.sequence, previous + 1, "{}", event.aggregate_id);
            count += 1;
        }
    }
    assert_eq!(count, RECORDS);
}

/// A dropped subscription leaves its group at once: the next member does not wait for a time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_subscription_leaves_the_group() {
    let cluster = Cluster::start();
    let bus = KafkaBus::open(cluster.config()).unwrap();
    publish(&bus, 1).await;
    for _ in 0..2 {
        let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
        // The session's time-out is 45 s.
        let batch = tokio::time::timeout(Duration::from_secs(30), subscription.next()).await.unwrap().unwrap();
        assert!(matches!(batch, Batch::Records(_)));
    }
}
