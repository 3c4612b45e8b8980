//! The suite that every bus passes.

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_bus::{Bus, KafkaBus, conformance::Harness};
use runmesh_store::{DocumentStore, SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;

use crate::brokers::Clean;

struct Kafka {
    bus: Arc<KafkaBus>,
    store: SqliteStore,
    broker: Clean,
    _folder: TempDir,
}

#[async_trait]
impl Harness for Kafka {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        let broker = Clean::broker().await;
        let bus = Arc::new(KafkaBus::open(broker.config()).unwrap());
        Self { bus, store, broker, _folder: folder }
    }

    fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone()
    }

    fn documents(&self) -> Arc<dyn DocumentStore> {
        Arc::new(self.store.clone())
    }

    async fn reopen(self) -> Self {
        let bus = Arc::new(KafkaBus::open(self.broker.config()).unwrap());
        Self { bus, ..self }
    }

    fn too_large(&self) -> usize {
        self.broker.config().max_record_bytes
    }
}

runmesh_bus::bus_suite!(Kafka);
runmesh_bus::bus_suite!(Kafka => inspection::a_time_leads_to_its_first_record);
