//! Databases that are there for one test.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{Document, doc},
    error::{ErrorKind, WriteFailure},
    options::IndexOptions,
};
use runmesh_events::{AggregateId, NewEvent};
use runmesh_servers::Shared;
use runmesh_store::{
    Appended, DocumentStore, EventStore, Expected, MongoStore,
    conformance::{EventIds, Harness},
    mongodb::MongoConfig,
};
use uuid::Uuid;

/// A database of the shared server, removed when this is dropped.
pub(crate) struct TestDatabase {
    uri: String,
    name: String,
}

impl TestDatabase {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self { uri: Shared::mongodb().unwrap(), name: format!("runmesh-test-{}", Uuid::now_v7().simple()) }
    }

    /// How a process of this name opens the store in it.
    pub(crate) fn config(&self, publisher: &str) -> MongoConfig {
        config(&self.uri, &self.name, publisher)
    }

    /// The store, as a process of this name opens it.
    pub(crate) async fn open(&self, publisher: &str) -> MongoStore {
        MongoStore::open(self.config(publisher)).await.unwrap()
    }

    /// The database without a store around it.
    pub(crate) async fn raw(&self) -> Database {
        Client::with_uri_str(&self.uri).await.unwrap().database(&self.name)
    }

    /// Its collection of buckets.
    pub(crate) async fn buckets(&self) -> Collection<Document> {
        self.raw().await.collection("events")
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (uri, name) = (self.uri.clone(), self.name.clone());
        // The test's own runtime may be at its end.
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Client::with_uri_str(&uri).await?.database(&name).drop().await })
        })
        .join();
        if !std::thread::panicking() {
            removed.unwrap().unwrap();
        }
    }
}

/// How a process of this name opens the store in a database.
pub(crate) fn config(uri: &str, database: &str, publisher: &str) -> MongoConfig {
    MongoConfig {
        database: Some(database.to_owned()),
        publisher: publisher.to_owned(),
        // The test server takes one message at a time, and many tests run at once.
        operation_timeout: Duration::from_secs(60),
        server_selection_timeout: Duration::from_secs(30),
        ..MongoConfig::new(uri)
    }
}

/// Appends to an aggregate, whatever its sequence.
pub(crate) async fn append(store: &MongoStore, aggregate: &AggregateId, events: Vec<NewEvent>) -> Appended {
    store.append(aggregate, Expected::Any, events).await.unwrap()
}

/// The sequences of a whole log.
pub(crate) async fn log(store: &MongoStore, aggregate: &AggregateId) -> Vec<u64> {
    let events = store.read(aggregate, 0, usize::MAX, &[]).await.unwrap();
    runmesh_store::conformance::sequences(&events)
}

/// The harness of the suite.
pub(crate) struct Mongo {
    store: MongoStore,
    database: TestDatabase,
}

#[async_trait]
impl Harness for Mongo {
    async fn new() -> Self {
        let database = TestDatabase::new();
        Self { store: database.open("process-1").await, database }
    }

    fn events(&self) -> Arc<dyn EventStore> {
        Arc::new(self.store.clone())
    }

    fn documents(&self) -> Arc<dyn DocumentStore> {
        Arc::new(self.store.clone())
    }

    async fn reopen(self) -> Self {
        let Self { store, database } = self;
        drop(store);
        Self { store: database.open("process-2").await, database }
    }

    /// Asks the server itself, not its name: a unique index over a field of an array's documents, and the same value in
    /// two documents.
    async fn event_ids(&self) -> EventIds {
        let raw = self.database.raw().await;
        let probe = raw.collection::<Document>("probe");
        let options = IndexOptions::builder().unique(true).build();
        probe.create_index(IndexModel::builder().keys(doc! { "a.b": 1 }).options(options).build()).await.unwrap();
        probe.insert_one(doc! { "_id": 1, "a": [{ "b": 1 }, { "b": 2 }] }).await.unwrap();
        match probe.insert_one(doc! { "_id": 2, "a": [{ "b": 2 }] }).await.map_err(|error| *error.kind) {
            Err(ErrorKind::Write(WriteFailure::WriteError(error))) if error.code == 11_000 => EventIds::Refused,
            Err(error) => panic!("{error}"),
            Ok(_) => {
                let indexes = raw.collection::<Document>("events").list_indexes().await.unwrap();
                let indexes: Vec<IndexModel> = indexes.try_collect().await.unwrap();
                let unique = |index: &IndexModel| index.options.as_ref().is_some_and(|o| o.unique == Some(true));
                let declared = indexes.iter().any(|index| index.keys == doc! { "events.i": 1 } && unique(index));
                EventIds::Taken { declared }
            }
        }
    }
}
