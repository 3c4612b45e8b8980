//! What a stopped mesh has stored.

use std::sync::Arc;

use anyhow::ensure;
use runmesh_events::{AggregateId, Catalog};
use runmesh_proto::event::Event;
use runmesh_store::{
    EventStore,
    mongodb::{MongoConfig, MongoStore},
    sqlite::{SqliteConfig, SqliteStore},
};

use crate::Mesh;

/// The name of the store's file in the data folder.
const FILE: &str = "runmesh.db";

/// The greatest number of events in a log of these tests.
const MOST: usize = 1 << 20;

/// The event store of a mesh that does not run.
pub struct Stored {
    store: Arc<dyn EventStore>,
}

impl Stored {
    /// Opens the store.
    ///
    /// # Errors
    /// When it is not there, or the mesh still has it.
    pub async fn open(mesh: &Mesh) -> anyhow::Result<Self> {
        if let Some(backends) = mesh.backends() {
            return Ok(Self { store: Arc::new(MongoStore::open(MongoConfig::new(&backends.store)).await?) });
        }
        let file = mesh.data_folder().join(FILE);
        ensure!(file.is_file(), "the store is not at {}", file.display());
        Ok(Self { store: Arc::new(SqliteStore::open(&SqliteConfig::new(file))?) })
    }

    /// An execution's whole log, in order.
    ///
    /// # Errors
    /// When it can't be read; when its sequences are not 1, 2, 3 and so on.
    pub async fn log(&self, execution_id: &str) -> anyhow::Result<Vec<Arc<Event>>> {
        let events = self.store.read(&AggregateId::from(execution_id), 0, MOST, &[]).await?;
        for (before, event) in events.iter().enumerate() {
            let wanted = before as u64 + 1;
            ensure!(event.sequence == wanted, "sequence {} of {execution_id} where {wanted} belongs", event.sequence);
        }
        ensure!(!events.is_empty(), "no log of {execution_id}");
        Ok(events)
    }

    /// The events of a log that clients may see.
    ///
    /// # Errors
    /// As [`Stored::log`].
    pub async fn visible(&self, execution_id: &str) -> anyhow::Result<Vec<Event>> {
        let visible = |event: &Arc<Event>| {
            event.payload.as_ref().is_some_and(|payload| Catalog::get().streamable(payload.event_type()))
        };
        Ok(self
            .log(execution_id)
            .await?
            .iter()
            .filter(|event| visible(event))
            .map(|event| event.as_ref().clone())
            .collect())
    }
}
