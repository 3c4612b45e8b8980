//! Real servers: producing, one hop, consuming, each beside librdkafka itself on the same broker, and the embedded backend.

mod baseline;
mod consuming;
mod hops;
mod producing;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use async_trait::async_trait;
use runmesh_bus::{
    Bus, Consumer, ConsumerGroup, Handler, HandlerError, Incoming, KafkaBus, KafkaConfig, Record, Relay,
};
use runmesh_events::{
    AggregateId, Catalog, Event, EventType, ExecutionId, GroupName, NewEvent, TraceParent, to_timestamp,
};
use runmesh_proto::event::ExecutionRunning;
use runmesh_servers::{Kafka, KafkaOptions, MongoLike};
use runmesh_store::{
    DocumentStore, EventStore as _, Leases, SqliteStore,
    mongodb::{MongoConfig, MongoStore},
    sqlite::SqliteConfig,
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// The topic of everything that is measured here.
const TYPE: EventType = EventType::ExecutionRunning;

/// Its name.
const TOPIC: &str = "execution_running";

/// The servers, and what stands on them.
struct Bench {
    kafka: Kafka,
    bus: KafkaBus,
    store: MongoStore,
    _relay: (JoinHandle<()>, DropGuard),
    _mongo: MongoLike,
    embedded: SqliteStore,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> anyhow::Result<Self> {
        let (kafka, mongo) = (Kafka::start(&KafkaOptions::default())?, MongoLike::start()?);
        let bus = KafkaBus::open(KafkaConfig::new(kafka.bootstrap()))?;
        let topics = bus.ensure_topics(Catalog::get().topics()).await?;
        ensure!(topics.drift.is_empty(), "{:?}", topics.drift);
        let process = Uuid::now_v7().to_string();
        let store =
            MongoStore::open(MongoConfig { publisher: process.clone(), ..MongoConfig::new(mongo.uri()) }).await?;
        let documents = Arc::new(store.clone());
        let leases = Leases::open(Arc::clone(&documents) as _, process).await?;
        let relay = Relay::new(Arc::new(store.clone()), Arc::new(bus.clone()), documents).await?;
        let (ready, stop) = (CancellationToken::new(), CancellationToken::new());
        let appends = store.live().appends();
        let publishing = tokio::spawn({
            let (ready, stop) = (ready.clone(), stop.clone());
            async move { relay.run_own(leases, appends, ready, stop).await }
        });
        ready.cancelled().await;
        let folder = tempfile::tempdir()?;
        let embedded = SqliteStore::open(&SqliteConfig::new(folder.path().join("bench.db")))?;
        let _relay = (publishing, stop.drop_guard());
        Ok(Self { kafka, bus, store, _relay, _mongo: mongo, embedded, _folder: folder })
    }
}

/// Measures all of it.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let bench = Bench::new().await?;
    for producers in [1, 8, 64] {
        producing::rates(&bench, producers).await?;
    }
    hops::latency(&bench).await?;
    consuming::rates(&bench).await
}

fn event(aggregate: &AggregateId) -> NewEvent {
    let payload = ExecutionRunning {
        execution_id: aggregate.to_string(),
        pod_name: "bench".to_owned(),
        progress_percentage: Some(50),
        case_result: None,
    };
    NewEvent::root("bench", "", &TraceParent::new_root(), payload)
}

/// A record as the relay makes it of an event.
fn record() -> anyhow::Result<Record> {
    let aggregate = ExecutionId::new().aggregate();
    let new = event(&aggregate);
    let event = Event {
        event_id: new.event_id.to_string(),
        aggregate_id: aggregate.to_string(),
        sequence: 1,
        occurred_at: Some(to_timestamp(SystemTime::now())),
        producer: new.producer,
        traceparent: new.traceparent,
        payload: Some(new.payload),
        ..Event::default()
    };
    Ok(Record::of(&event)?)
}

/// Counts records until there are as many as are waited for.
#[derive(Default)]
struct Counted {
    count: AtomicUsize,
    changed: Notify,
}

impl Counted {
    fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    async fn reach(&self, count: usize) -> anyhow::Result<()> {
        let reached = async {
            while self.count.load(Ordering::Acquire) < count {
                self.changed.notified().await;
            }
        };
        let all = tokio::time::timeout(Duration::from_secs(120), reached).await;
        ensure!(all.is_ok(), "{} of {count} records came", self.count.load(Ordering::Acquire));
        Ok(())
    }
}

#[async_trait]
impl Handler for Counted {
    async fn handle(&self, _incoming: &Incoming) -> Result<(), HandlerError> {
        self.add();
        Ok(())
    }
}

/// A consumer group that runs until it is dropped.
struct Group {
    _stop: DropGuard,
}

impl Group {
    fn start(
        bus: Arc<dyn Bus>,
        documents: Arc<dyn DocumentStore>,
        name: &'static str,
        handler: Arc<dyn Handler>,
    ) -> Self {
        let stop = CancellationToken::new();
        let shutdown = stop.clone();
        tokio::spawn(async move {
            let consumer = Consumer::new(bus, documents).await?;
            consumer.run(ConsumerGroup::new(GroupName::new(name), &[TYPE], handler), shutdown).await?;
            anyhow::Ok(())
        });
        Self { _stop: stop.drop_guard() }
    }
}
