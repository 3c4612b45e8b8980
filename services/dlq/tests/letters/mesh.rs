//! A store, a bus, one group, and the service.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use runmesh_bus::{
    Bus, Consumer, ConsumerGroup, DeadLetter, EmbeddedBus, HandlerError, InPlaceRetry, KnownGroup, Record,
    conformance::{Probe, Running, TOPIC, TOPIC_2, start, until},
};
use runmesh_dlq::{DeadLetterService, Dependencies};
use runmesh_events::{Event, EventType, GroupName};
use runmesh_store::{Documents, EventStore, Filter, Position, SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::flaky::FlakyEvents;

pub(crate) const GROUP: GroupName = GroupName::new("shop");

/// How the group fails.
#[derive(Clone, Default)]
pub(crate) struct Switch {
    pub(crate) transient: Arc<AtomicBool>,
    pub(crate) permanent: Arc<AtomicBool>,
    /// How many of the next tellings of many letters fail, but for the first one.
    pub(crate) untold: Arc<AtomicUsize>,
}

/// A mesh of one group on [`TOPIC`] and [`TOPIC_2`]. Events whose aggregates begin with `good` are always handled.
pub(crate) struct Mesh {
    folder: TempDir,
    pub(crate) store: SqliteStore,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) service: DeadLetterService,
    pub(crate) probe: Arc<Probe>,
    pub(crate) fails: Switch,
    running: Option<Running>,
    token: CancellationToken,
    /// Its drop stops what is left of a test that failed.
    _stop: DropGuard,
    worker: Option<JoinHandle<()>>,
}

impl Mesh {
    /// One whose group fails for the moment, with transient errors. Nothing is delivered again by itself.
    pub(crate) async fn failing() -> Self {
        let mesh = Self::open(tempfile::tempdir().unwrap(), Switch::default()).await;
        mesh.fails.transient.store(true, Ordering::SeqCst);
        mesh
    }

    async fn open(folder: TempDir, fails: Switch) -> Self {
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let bus: Arc<dyn Bus> = Arc::new(EmbeddedBus::new(store.clone()));
        let consumer = Consumer::new(Arc::clone(&bus), Arc::new(store.clone())).await.unwrap();
        let stop = CancellationToken::new();
        let service = DeadLetterService::build(Dependencies {
            events: Arc::new(FlakyEvents::new(store.clone(), Arc::clone(&fails.untold))),
            documents: Arc::new(store.clone()),
            bus: Arc::clone(&bus),
            letters: consumer.dead_letters().clone(),
            paused: consumer.paused_groups().clone(),
            groups: Arc::new(vec![KnownGroup { outside_effects: true, ..KnownGroup::new(GROUP, &[TOPIC, TOPIC_2]) }]),
            shutdown: stop.clone(),
        })
        .await
        .unwrap();
        let switch = fails.clone();
        let probe = Probe::new(move |incoming| {
            let may_fail = !incoming.event.aggregate_id.starts_with("good");
            let (transient, permanent) =
                (switch.transient.load(Ordering::SeqCst), switch.permanent.load(Ordering::SeqCst));
            async move {
                let words = format!("order {} can't be shipped", incoming.event.aggregate_id);
                match (may_fail && permanent, may_fail && transient) {
                    (true, _) => Err(HandlerError::permanent(words)),
                    (_, true) => Err(HandlerError::transient(words)),
                    _ => Ok(()),
                }
            }
        });
        let retry = InPlaceRetry { tries: 1, first_wait: Duration::from_millis(1) };
        let group = ConsumerGroup { retry, ..ConsumerGroup::new(GROUP, &[TOPIC, TOPIC_2], probe.clone()) };
        let running = Some(start(&consumer, group));
        Self {
            folder,
            store,
            bus,
            service,
            probe,
            fails,
            running,
            token: stop.clone(),
            _stop: stop.drop_guard(),
            worker: None,
        }
    }

    /// Has the service do by itself what is due.
    pub(crate) fn run(&mut self) {
        let (service, stop) = (self.service.clone(), self.token.clone());
        self.worker = Some(tokio::spawn(async move { service.run(stop).await }));
    }

    /// The same after the process was started again.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop().await;
        let Self { folder, store, bus, service, fails, .. } = self;
        drop((store, bus, service));
        Self::open(folder, fails).await
    }

    pub(crate) async fn stop(&mut self) {
        self.token.cancel();
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        if let Some(worker) = self.worker.take() {
            worker.await.unwrap();
        }
    }

    pub(crate) fn recover(&self) {
        self.fails.transient.store(false, Ordering::SeqCst);
        self.fails.permanent.store(false, Ordering::SeqCst);
    }

    pub(crate) async fn publish(&self, records: Vec<Record>) {
        for result in self.bus.publish(records).await {
            result.unwrap();
        }
    }

    pub(crate) async fn letters(&self) -> Documents<DeadLetter> {
        Documents::open(Arc::new(self.store.clone())).await.unwrap()
    }

    pub(crate) async fn get(&self, id: &str) -> DeadLetter {
        self.letters().await.get(id).await.unwrap().unwrap().document
    }

    /// Waits until a letter is as it should be.
    pub(crate) async fn until(&self, id: &str, holds: impl Fn(&DeadLetter) -> bool) -> DeadLetter {
        until("the letter is as it should be", || async { holds(&self.get(id).await) }).await;
        self.get(id).await
    }

    /// Does all that is due at a time.
    pub(crate) async fn turn(&self, now: SystemTime) {
        while self.service.turn(now).await.unwrap() > 0 {}
    }

    /// Publishes a record that fails, and waits for its letter.
    pub(crate) async fn bury(&self, record: Record) -> DeadLetter {
        let event: Event = prost::Message::decode(record.value.clone()).unwrap();
        let id = DeadLetter::id_of(GROUP, &event.event_id);
        self.publish(vec![record]).await;
        let letters = self.letters().await;
        until("the letter is kept", || async { letters.get(&id).await.unwrap().is_some() }).await;
        self.get(&id).await
    }

    /// The events of a type that were appended, in order.
    pub(crate) async fn told(&self, event_type: EventType) -> Vec<Arc<Event>> {
        let filter = Filter { types: vec![event_type], ..Filter::default() };
        let events: &dyn EventStore = &self.store;
        let found = events.scan(&filter, Position(0), 10_000).await.unwrap();
        found.into_iter().map(|stored| stored.event).collect()
    }
}
