//! The embedded bus: the suite, and that appended events are records.

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_bus::{Bus, EmbeddedBus, conformance::Harness};
use runmesh_store::{DocumentStore, SqliteStore, sqlite::SqliteConfig};
use tempfile::TempDir;

struct Embedded {
    folder: TempDir,
    store: SqliteStore,
    bus: Arc<EmbeddedBus>,
}

impl Embedded {
    fn open(folder: TempDir) -> Self {
        let store = SqliteStore::open(&SqliteConfig::new(folder.path().join("runmesh.db"))).unwrap();
        Self { folder, bus: Arc::new(EmbeddedBus::new(store.clone())), store }
    }
}

#[async_trait]
impl Harness for Embedded {
    async fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
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
        Self::open(folder)
    }

    fn too_large(&self) -> usize {
        (64 << 20) + 1
    }
}

runmesh_bus::bus_suite!(Embedded);
