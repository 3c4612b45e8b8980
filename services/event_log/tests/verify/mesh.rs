//! A store, a bus and the groups of a mesh, to be put in order or out of it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use runmesh_bus::{
    Bus, Consumer, ConsumerGroup, EmbeddedBus, KafkaBus, KafkaConfig, KnownGroup, Record, Relay,
    conformance::{Probe, start, until},
};
use runmesh_event_log::{Dependencies, Verifier, VerifyOptions};
use runmesh_events::{AggregateId, Catalog, Event, GroupName, Payload};
use runmesh_servers::{Kafka, KafkaOptions, MongoLike};
use runmesh_store::{
    DocumentStore, EventStore, Expected, Leases, MongoStore, Position, SqliteStore, Stored, mongodb::MongoConfig,
    sqlite::SqliteConfig,
};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    outcome::Outcome,
    remote::Remote,
    samples::{TOPICS, event, whole},
};

/// The groups of the mesh.
pub(crate) const GROUPS: [GroupName; 2] = [GroupName::new("first"), GroupName::new("second")];

/// Both groups read the same topics.
pub(crate) fn table() -> Vec<KnownGroup> {
    GROUPS.into_iter().map(|name| KnownGroup::new(name, &TOPICS)).collect()
}

/// The options of most tests: nothing is too old by itself.
pub(crate) const PATIENT: VerifyOptions =
    VerifyOptions { since: None, patience: Duration::from_secs(3_600), max_findings: 100 };

/// The same, where whatever is on its way is too old at once.
pub(crate) const IMPATIENT: VerifyOptions = VerifyOptions { patience: Duration::ZERO, ..PATIENT };

pub(crate) struct Mesh {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) documents: Arc<dyn DocumentStore>,
    pub(crate) bus: Arc<dyn Bus>,
    folder: TempDir,
    cluster: Option<Kafka>,
    _server: Option<MongoLike>,
}

/// The relay at work.
pub(crate) struct Relaying {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Relaying {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// The name of this process where the store is shared.
const PROCESS: &str = "process-1";

impl Mesh {
    /// On a bus that is embedded in another file.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let other = SqliteStore::open(&SqliteConfig::new(folder.path().join("bus.db"))).unwrap();
        let config = SqliteConfig { relayed: true, ..SqliteConfig::new(folder.path().join("store.db")) };
        let store = Arc::new(SqliteStore::open(&config).unwrap());
        let bus = Arc::new(Remote(EmbeddedBus::new(other)));
        Self { store: store.clone(), documents: store, bus, folder, cluster: None, _server: None }
    }

    /// On a Kafka of its own and a server of MongoDB's protocol of its own.
    pub(crate) async fn on_servers() -> Self {
        let server = tokio::task::spawn_blocking(MongoLike::start).await.unwrap().unwrap();
        let mut config = MongoConfig { publisher: PROCESS.to_owned(), ..MongoConfig::new(server.uri()) };
        // The test server takes one message at a time.
        config.operation_timeout = Duration::from_secs(60);
        let store = Arc::new(MongoStore::open(config).await.unwrap());
        Self { store: store.clone(), documents: store, _server: Some(server), ..Self::on_kafka().await }
    }

    /// On a Kafka of its own.
    pub(crate) async fn on_kafka() -> Self {
        let cluster = tokio::task::spawn_blocking(|| Kafka::start(&KafkaOptions::default())).await.unwrap().unwrap();
        let bus = KafkaBus::open(KafkaConfig::new(cluster.bootstrap())).unwrap();
        bus.ensure_topics(Catalog::get().topics()).await.unwrap();
        Self { bus: Arc::new(bus), cluster: Some(cluster), ..Self::new() }
    }

    /// The cluster, where the bus is on one.
    pub(crate) fn brokers(&self) -> String {
        self.cluster.as_ref().unwrap().bootstrap()
    }

    /// Appends to an aggregate.
    pub(crate) async fn append(&self, aggregate: &str, payloads: Vec<Payload>) -> Vec<Arc<Event>> {
        let events = payloads.into_iter().map(event).collect();
        self.store.append(&AggregateId::from(aggregate), Expected::Any, events).await.unwrap().events
    }

    /// Appends whole executions.
    pub(crate) async fn run(&self, executions: usize) -> Vec<String> {
        let ids: Vec<String> = (0..executions).map(|_| crate::samples::id()).collect();
        for id in &ids {
            self.append(id, whole()).await;
        }
        ids
    }

    /// Publishes what is not published, as a node does.
    pub(crate) async fn relay(&self) {
        let relaying = self.start_relay().await;
        self.all_published().await;
        relaying.stop().await;
    }

    /// Publishes from now on, as a node does.
    pub(crate) async fn start_relay(&self) -> Relaying {
        let relay = Relay::new(self.store.clone(), Arc::clone(&self.bus), self.documents.clone()).await.unwrap();
        let stop = CancellationToken::new();
        if !self.store.is_shared() {
            let (relay, shutdown) = (relay.clone(), stop.clone());
            let task = tokio::spawn(async move { relay.run(shutdown).await.unwrap() });
            return Relaying { stop, task };
        }
        let leases = Leases::open(self.documents.clone(), PROCESS).await.unwrap();
        let (appends, ready) = (self.store.live().appends(), CancellationToken::new());
        let (started, shutdown) = (ready.clone(), stop.clone());
        let task = tokio::spawn(async move { relay.run_own(leases, appends, started, shutdown).await });
        ready.cancelled().await;
        Relaying { stop, task }
    }

    pub(crate) async fn all_published(&self) {
        until("all is published", async || self.store.unpublished(Position(0), 1).await.unwrap().is_empty()).await;
    }

    /// Waits until the groups have done with all there is.
    pub(crate) async fn all_handled(&self, group: GroupName) {
        until("all is handled", async || {
            self.bus.lag(group, &TOPICS).await.unwrap().iter().all(|lag| lag.records == 0)
        })
        .await;
    }

    pub(crate) async fn consumer(&self) -> Consumer {
        Consumer::new(Arc::clone(&self.bus), self.documents.clone()).await.unwrap()
    }

    /// Lets the groups handle all there is.
    pub(crate) async fn handle(&self) {
        for group in GROUPS {
            let group_of = ConsumerGroup::new(group, &TOPICS, Probe::accepting());
            let running = start(&self.consumer().await, group_of);
            self.all_handled(group).await;
            running.stop().await;
        }
    }

    /// Publishes records as they are.
    pub(crate) async fn publish(&self, records: Vec<Record>) {
        for result in self.bus.publish(records).await {
            result.unwrap();
        }
    }

    /// Marks an event as published, whether it is or not.
    pub(crate) async fn mark(&self, event: &Event) {
        let found = self.store.get(&event.event_id.parse().unwrap()).await.unwrap().unwrap();
        self.store.mark_published(&[Stored { position: found.position, event: found.event }]).await.unwrap();
    }

    /// Changes the store's file behind its back.
    pub(crate) fn tamper(&self, change: impl FnOnce(&Connection) -> rusqlite::Result<usize>) {
        let connection = Connection::open(self.file()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(change(&connection).unwrap(), 1, "one row is changed");
    }

    /// Removes an event from the store's file, and from nowhere else.
    pub(crate) fn remove(&self, event: &Event) {
        let id = event.event_id.parse::<runmesh_events::EventId>().unwrap();
        self.tamper(|file| file.execute("DELETE FROM events WHERE event_id = ?1", [id.as_bytes()]));
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    pub(crate) async fn verifier(&self) -> Verifier {
        let dependencies = Dependencies {
            store: self.store.clone(),
            documents: self.documents.clone(),
            bus: Arc::clone(&self.bus),
            groups: Arc::new(table()),
        };
        Verifier::build(dependencies).await.unwrap()
    }

    pub(crate) async fn verify(&self, options: VerifyOptions) -> Outcome {
        Outcome::of(self.verifier().await.verify(options)).await
    }
}
