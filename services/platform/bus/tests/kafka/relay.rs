//! From the store to the topics.

mod orphans;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use runmesh_bus::{
    Bus, DeadLetter, KafkaBus, KafkaConfig, RELAY, Relay,
    conformance::{TOPIC, TOPIC_2, subscriptions::read, until, within},
};
use runmesh_events::{AggregateId, EventType, GroupName, NewEvent, Payload, TraceParent};
use runmesh_proto::event::{ExecutionStarted, PodCreated};
use runmesh_servers::KafkaOptions;
use runmesh_store::{Documents, EventStore as _, Expected, PageQuery, Position, SqliteStore, sqlite::SqliteConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::brokers::{Clean, blocking, private, specs};

const GROUP: GroupName = GroupName::new("relayed");

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(&SqliteConfig { relayed: true, ..SqliteConfig::new(folder.join("runmesh.db")) }).unwrap()
}

fn event(event_type: EventType, aggregate: &str, pod_name: &str) -> NewEvent {
    let (execution_id, pod_name) = (aggregate.to_owned(), pod_name.to_owned());
    let payload: Payload = if event_type == TOPIC {
        ExecutionStarted { execution_id, pod_name, ..Default::default() }.into()
    } else {
        PodCreated { execution_id, pod_name, ..Default::default() }.into()
    };
    NewEvent::root("test", "", &TraceParent::new_root(), payload)
}

async fn append(store: &SqliteStore, aggregate: &str, events: Vec<NewEvent>) {
    store.append(&AggregateId::from(aggregate), Expected::Any, events).await.unwrap();
}

struct Relaying {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn relay(store: &SqliteStore, bus: &Arc<KafkaBus>) -> Relaying {
    let relay = Relay::new(Arc::new(store.clone()), bus.clone(), Arc::new(store.clone())).await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { relay.run(shutdown).await.unwrap() }
    });
    Relaying { shutdown, task }
}

impl Relaying {
    async fn stop(self) {
        self.shutdown.cancel();
        within("the relay ends", self.task).await.unwrap();
    }
}

async fn until_all_published(store: &SqliteStore) {
    until("everything is published", || async { store.unpublished(Position(0), 1).await.unwrap().is_empty() }).await;
}

async fn letters(store: &SqliteStore) -> Vec<DeadLetter> {
    let letters: Documents<DeadLetter> = Documents::open(Arc::new(store.clone())).await.unwrap();
    let page = letters.page(PageQuery { index: "by_time", limit: 10, ..PageQuery::default() }).await.unwrap();
    page.documents.into_iter().map(|letter| letter.document).collect()
}

/// Everything reaches its topic, the events of an aggregate in the order of their sequences.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_append_reaches_its_topic_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, store) = (Clean::broker().await, open(folder.path()));
    let bus = Arc::new(KafkaBus::open(broker.config()).unwrap());
    let relaying = relay(&store, &bus).await;
    let mut appending = Vec::new();
    for aggregate in 0..10 {
        let store = store.clone();
        appending.push(tokio::spawn(async move {
            let aggregate = format!("aggregate-{aggregate}");
            for number in 0..20 {
                let event_type = if number % 4 == 3 { TOPIC_2 } else { TOPIC };
                append(&store, &aggregate, vec![event(event_type, &aggregate, "pod")]).await;
            }
        }));
    }
    for appending in appending {
        appending.await.unwrap();
    }
    until_all_published(&store).await;
    relaying.stop().await;
    let mut subscription = bus.subscribe(GROUP, &[TOPIC, TOPIC_2]).await.unwrap();
    let mut found: HashMap<(String, EventType), Vec<u64>> = HashMap::new();
    for delivery in read(subscription.as_mut(), 200).await {
        let event = delivery.event().unwrap();
        assert_eq!(delivery.key, event.aggregate_id.as_bytes());
        found.entry((event.aggregate_id.clone(), delivery.event_type)).or_default().push(event.sequence);
    }
    for aggregate in 0..10 {
        let of = |event_type| &found[&(format!("aggregate-{aggregate}"), event_type)];
        assert_eq!(*of(TOPIC_2), [4, 8, 12, 16, 20]);
        assert_eq!(*of(TOPIC), (1..=20).filter(|sequence| sequence % 4 != 0).collect::<Vec<u64>>());
    }
    assert!(letters(&store).await.is_empty());
}

/// What was appended before a crash, and not published, is published by the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_append_and_publish_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Clean::broker().await;
    let bus = Arc::new(KafkaBus::open(broker.config()).unwrap());
    let store = open(folder.path());
    append(&store, "a", vec![event(TOPIC, "a", "1"), event(TOPIC, "a", "2")]).await;
    drop(store);
    let store = open(folder.path());
    append(&store, "a", vec![event(TOPIC, "a", "3")]).await;
    let relaying = relay(&store, &bus).await;
    until_all_published(&store).await;
    relaying.stop().await;
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let deliveries = read(subscription.as_mut(), 3).await;
    let sequences: Vec<u64> = deliveries.iter().map(|delivery| delivery.event().unwrap().sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

/// An event that is too large for the bus becomes a dead letter of the relay; those around it are published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_can_not_be_published_is_parked_and_blocks_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, store) = (Clean::broker().await, open(folder.path()));
    let bus = Arc::new(KafkaBus::open(broker.config()).unwrap());
    let large = "x".repeat(broker.config().max_record_bytes);
    append(&store, "a", vec![event(TOPIC, "a", "1"), event(TOPIC, "a", &large), event(TOPIC, "a", "3")]).await;
    let relaying = relay(&store, &bus).await;
    until_all_published(&store).await;
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let deliveries = read(subscription.as_mut(), 2).await;
    let sequences: Vec<u64> = deliveries.iter().map(|delivery| delivery.event().unwrap().sequence).collect();
    assert_eq!(sequences, [1, 3]);
    let letters = letters(&store).await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].group.as_str(), letters[0].aggregate_id.as_str()), (RELAY.as_str(), "a"));
    assert!(letters[0].attempts[0].errors[0].contains("limit"), "{:?}", letters[0].attempts);
    relaying.stop().await;
}

/// While the cluster is away nothing is given up; a shutdown does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_delays_events_and_loses_none() {
    let folder = tempfile::tempdir().unwrap();
    let (mut kafka, store) = (private(KafkaOptions::default()).await, open(folder.path()));
    let bootstrap = kafka.bootstrap();
    let config = KafkaConfig { delivery_timeout: Duration::from_millis(300), ..KafkaConfig::new(&bootstrap) };
    let bus = Arc::new(KafkaBus::open(config).unwrap());
    within("the topics are made", bus.ensure_topics(&specs())).await.unwrap();
    let mut kafka = blocking(move || {
        kafka.kill(1).unwrap();
        kafka
    })
    .await;
    append(&store, "a", (1..=5).map(|number| event(TOPIC, "a", &number.to_string())).collect()).await;
    let relaying = relay(&store, &bus).await;
    assert!(bus.publish(vec![runmesh_bus::conformance::record(TOPIC_2, "b", 1)]).await.remove(0).is_err());
    relaying.stop().await;
    assert_eq!(store.unpublished(Position(0), 10).await.unwrap().len(), 5);
    let _kafka = blocking(move || {
        kafka.start_node(1).unwrap();
        kafka
    })
    .await;
    // Not in a hurry: what a broker has and did not say in time is published twice.
    let bus = Arc::new(KafkaBus::open(KafkaConfig::new(bootstrap)).unwrap());
    let relaying = relay(&store, &bus).await;
    until_all_published(&store).await;
    relaying.stop().await;
    assert!(letters(&store).await.is_empty());
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let deliveries = read(subscription.as_mut(), 5).await;
    let sequences: Vec<u64> = deliveries.iter().map(|delivery| delivery.event().unwrap().sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
}
