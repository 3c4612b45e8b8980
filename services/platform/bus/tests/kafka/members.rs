//! Members of a group in this process, and what is told of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use runmesh_bus::{
    Bus, Consumer, ConsumerGroup, HandlerError, Incoming, KafkaBus,
    conformance::{Probe, Running, TOPIC, record, start, within},
    kafka::KafkaConfig,
};
use runmesh_events::GroupName;
use runmesh_store::{SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

pub(crate) const GROUP: GroupName = GroupName::new("rebalance");

/// How many keys the events have. They are spread over all partitions.
pub(crate) const KEYS: usize = 24;

/// An event that was handled: by whom, its key and its sequence.
pub(crate) type Told = (&'static str, String, u64);

/// Publishes, lets members join and leave, and listens to what they handle.
pub(crate) struct Bench {
    pub(crate) bus: Arc<KafkaBus>,
    pub(crate) published: u64,
    config: KafkaConfig,
    store: SqliteStore,
    tell: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    _folder: TempDir,
}

impl Bench {
    pub(crate) fn new(config: KafkaConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let bus = Arc::new(KafkaBus::open(config.clone()).unwrap());
        Self { bus, published: 0, config, store, tell, told, _folder: folder }
    }

    /// A member whose handler does this, and then tells of the event.
    pub(crate) async fn member<F>(
        &self,
        name: &'static str,
        work: impl Fn(Incoming) -> F + Send + Sync + 'static,
    ) -> (Running, Arc<Probe>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.member_as(self.config.clone(), name, work).await
    }

    /// The same with other settings.
    pub(crate) async fn member_as<F>(
        &self,
        config: KafkaConfig,
        name: &'static str,
        work: impl Fn(Incoming) -> F + Send + Sync + 'static,
    ) -> (Running, Arc<Probe>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tell = self.tell.clone();
        let probe = Probe::new(move |incoming| {
            let (tell, event) = (tell.clone(), Arc::clone(&incoming.event));
            let work = work(incoming);
            async move {
                work.await;
                tell.send((name, event.aggregate_id.clone(), event.sequence)).unwrap();
                Ok::<(), HandlerError>(())
            }
        });
        let bus = Arc::new(KafkaBus::open(config).unwrap());
        let consumer = Consumer::new(bus, Arc::new(self.store.clone())).await.unwrap();
        (start(&consumer, ConsumerGroup::new(GROUP, &[TOPIC], probe.clone())), probe)
    }

    /// Publishes one event of each key.
    pub(crate) async fn publish(&mut self) {
        self.published += 1;
        let records = (0..KEYS).map(|key| record(TOPIC, &format!("key-{key}"), self.published)).collect();
        for result in self.bus.publish(records).await {
            result.unwrap();
        }
    }

    /// Publishes at a pace that members can follow, until this holds.
    pub(crate) async fn publish_until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let more = async {
            while !holds() {
                self.publish().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(what, more).await;
    }

    pub(crate) async fn lag(&self) -> u64 {
        self.bus.lag(GROUP, &[TOPIC]).await.unwrap()[0].records
    }

    pub(crate) async fn until_done(&self) {
        runmesh_bus::conformance::until("all is committed", async || self.lag().await == 0).await;
    }

    /// What was told so far, in order.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }

    /// Every event was handled, those of a key in order. Returns those that were handled again.
    pub(crate) fn check(&self, told: &[Told]) -> Vec<Told> {
        let mut last: HashMap<&str, u64> = HashMap::new();
        let mut again = Vec::new();
        for event @ (name, key, sequence) in told {
            let last = last.entry(key).or_default();
            if *sequence <= *last {
                again.push(event.clone());
            } else {
                assert_eq!(*sequence, *last + 1, "{key}, by member {name}");
                *last = *sequence;
            }
        }
        assert_eq!(last.len(), KEYS, "{last:?}");
        assert!(last.values().all(|sequence| *sequence == self.published), "{} of each: {last:?}", self.published);
        again
    }
}

/// Takes so long for each event.
pub(crate) fn taking(time: Duration) -> impl Fn(Incoming) -> tokio::time::Sleep + Send + Sync + 'static {
    move |_| tokio::time::sleep(time)
}
