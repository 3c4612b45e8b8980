//! The store that the settings name.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use runmesh_store::{
    DocumentStore, EventStore, SqliteStore, StoreError,
    mongodb::{MongoConfig, MongoStore},
    sqlite::{Durability as SqliteDurability, SqliteConfig},
};
use uuid::Uuid;

use crate::{Config, config::Durability};

/// What stands before the path of a file in the setting.
pub(crate) const SQLITE: &str = "sqlite:";

/// What the addresses of MongoDB begin with.
pub(crate) const MONGODB: [&str; 2] = ["mongodb://", "mongodb+srv://"];

/// An open store. Clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) documents: Arc<dyn DocumentStore>,
    /// The store itself where the embedded bus can live in it.
    pub(crate) sqlite: Option<SqliteStore>,
    /// The name of this run of the process, among all that share the store.
    pub(crate) process: String,
}

/// Whether the settings name a store that other processes use too.
pub(crate) fn is_shared(uri: &str) -> bool {
    MONGODB.iter().any(|scheme| uri.starts_with(scheme))
}

/// The file of a store that is not shared.
pub(crate) fn file(config: &Config, data: &Path) -> PathBuf {
    config.store.uri.strip_prefix(SQLITE).map_or_else(|| data.join("runmesh.db"), PathBuf::from)
}

/// Opens the store.
pub(crate) async fn open(config: &Config, data: &Path) -> Result<Store, StoreError> {
    let process = format!("{}-{}", config.node, Uuid::now_v7().simple());
    let settings = &config.store;
    if is_shared(&settings.uri) {
        let store = MongoStore::open(MongoConfig {
            publisher: process.clone(),
            max_pool_size: settings.pool_size,
            connect_timeout: settings.connect_timeout,
            server_selection_timeout: settings.connect_timeout,
            operation_timeout: settings.timeout,
            ..MongoConfig::new(&settings.uri)
        })
        .await?;
        return Ok(Store { events: Arc::new(store.clone()), documents: Arc::new(store), sqlite: None, process });
    }
    let store = SqliteStore::open(&SqliteConfig {
        path: file(config, data),
        durability: match settings.durability {
            Durability::Process => SqliteDurability::Process,
            Durability::Power => SqliteDurability::Power,
        },
        relayed: config.bus.is_remote(),
    })?;
    let (events, documents) = (Arc::new(store.clone()), Arc::new(store.clone()));
    Ok(Store { events, documents, sqlite: Some(store), process })
}
