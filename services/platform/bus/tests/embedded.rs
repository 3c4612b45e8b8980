//! The embedded bus: the suite, and that appended events are records.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_bus::{
    Bus, EmbeddedBus,
    conformance::{Harness, TOPIC, record, until},
};
use runmesh_store::{DocumentStore, SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;

struct Embedded {
    folder: TempDir,
    store: SqliteStore,
    bus: Arc<EmbeddedBus>,
}

fn config(folder: &TempDir) -> SqliteConfig {
    SqliteConfig::new(folder.path().join("runmesh.db"))
}

impl Embedded {
    fn open(folder: TempDir, store: SqliteStore) -> Self {
        Self { folder, bus: Arc::new(EmbeddedBus::new(store.clone())), store }
    }
}

#[async_trait]
impl Harness for Embedded {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&config(&folder)).unwrap();
        Self::open(folder, store)
    }

    fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone()
    }

    fn documents(&self) -> Arc<dyn DocumentStore> {
        Arc::new(self.store.clone())
    }

    async fn reopen(self) -> Self {
        let Self { folder, store, bus } = self;
        drop((store, bus));
        // What a "crash" cut off may hold the file for another moment.
        let mut reopened = None;
        until("the file is given back", || {
            reopened = SqliteStore::open(&config(&folder)).ok();
            std::future::ready(reopened.is_some())
        })
        .await;
        Self::open(folder, reopened.unwrap())
    }

    fn too_large(&self) -> usize {
        (64 << 20) + 1
    }
}

runmesh_bus::bus_suite!(Embedded);
runmesh_bus::bus_suite!(Embedded => inspection::a_time_leads_to_its_first_record);

/// It has the topics of event types alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_for_another_topic_is_refused() {
    let embedded = Embedded::new().await;
    let bus = embedded.bus();
    let map = [(TOPIC, "copies".to_owned())].into();
    let refused = bus.publish_mapped(vec![record(TOPIC, "a", 1)], &map).await.remove(0);
    assert!(matches!(&refused, Err(error) if !error.is_transient()), "{refused:?}");
    bus.publish_mapped(vec![record(TOPIC, "a", 1)], &Default::default()).await.remove(0).unwrap();
    let extent = bus.extents(&[TOPIC]).await.unwrap()[0];
    assert_eq!(extent.next - extent.first, 1);
}
