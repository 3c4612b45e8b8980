//! Events and documents in MongoDB, shared by processes.
//!
//! One document, one atomic step: nothing here needs a transaction, a change stream or an update that reads what it
//! writes. Writes are acknowledged by a majority, reads come from the primary with what a majority has.
//!
//! - `events` holds buckets of events ([`bucket`]). A log grows at one bucket, by an update that expects the sequence
//!   that its writer saw, or by the insertion of the next bucket.
//! - Each kind of document is a collection of that name ([`documents`]); a write expects a revision.
//!
//! An answer that does not come leaves open whether a write was done. The ids of the events, or a number that each write
//! leaves in its document, tell it from another's when it is tried again.

mod append;
mod bucket;
mod clock;
mod delete;
mod documents;
mod events;
mod failure;
mod known;
mod pages;
mod read;
mod replace;
mod scan;
mod scan_back;

use std::{fmt, sync::Arc, time::Duration};

use mongodb::{
    Client, Collection, Database, IndexModel,
    bson::{Document, doc},
    options::{
        ClientOptions, DatabaseOptions, IndexOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
    },
};
use tokio::time::timeout;

use crate::{LiveEvents, StoreError};
use clock::Clock;
use failure::{EVENT_IDS, Failure, repeat};
use known::Known;

/// The collection of the buckets.
const EVENTS: &str = "events";

/// The database where the uri names none.
const DATABASE: &str = "runmesh";

/// How a store in MongoDB is opened.
#[derive(Clone)]
pub struct MongoConfig {
    /// The address, `mongodb://…` or `mongodb+srv://…`, with credentials, TLS and whatever else the driver knows. What it
    /// says of the pool and of timeouts wins over the fields below. Write and read concern are always `majority`, and reads
    /// always go to the primary.
    pub uri: String,
    /// The database. `None`: the one that the uri names, or else `runmesh`.
    pub database: Option<String>,
    /// The name of this run of the process, unique among those that share the store: it publishes what it appends.
    pub publisher: String,
    /// The greatest number of connections to each server.
    pub max_pool_size: u32,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a call waits for a server that can serve it, such as a new primary.
    pub server_selection_timeout: Duration,
    /// How long a call may take, with all that is tried again in it.
    pub operation_timeout: Duration,
}

impl MongoConfig {
    /// A store at this address with the defaults: 64 connections, 5 seconds to connect and to find a server, 10 seconds
    /// for a call.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            database: None,
            publisher: String::new(),
            max_pool_size: 64,
            connect_timeout: Duration::from_secs(5),
            server_selection_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for MongoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The uri may hold a password.
        f.debug_struct("MongoConfig")
            .field("database", &self.database)
            .field("publisher", &self.publisher)
            .field("max_pool_size", &self.max_pool_size)
            .field("connect_timeout", &self.connect_timeout)
            .field("server_selection_timeout", &self.server_selection_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .finish_non_exhaustive()
    }
}

/// An open store. Clones share it.
#[derive(Clone)]
pub struct MongoStore {
    inner: Arc<Inner>,
}

impl fmt::Debug for MongoStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStore").field("database", &self.inner.database.name()).finish_non_exhaustive()
    }
}

struct Inner {
    database: Database,
    events: Collection<Document>,
    clock: Clock,
    known: Known,
    live: LiveEvents,
    publisher: Arc<str>,
    timeout: Duration,
}

impl MongoStore {
    /// Connects, and makes the collection of events and its indexes where they are missing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the uri is wrong or an index of the same name is another one;
    /// [`StoreError::Unavailable`] when no server answers in time; [`StoreError::Backend`] when it refuses.
    pub async fn open(config: MongoConfig) -> Result<Self, StoreError> {
        let options = timeout(config.operation_timeout, parse(&config)).await.map_err(|_| {
            StoreError::Unavailable("the names in the store's uri were not resolved in time".to_owned())
        })??;
        let name = config.database.or_else(|| options.default_database.clone());
        let client = Client::with_options(options).map_err(|error| StoreError::from(Failure::from(error)))?;
        let majority = DatabaseOptions::builder()
            .read_concern(ReadConcern::majority())
            .write_concern(WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).build())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        let database = client.database_with_options(name.as_deref().unwrap_or(DATABASE), majority);
        let store = Self {
            inner: Arc::new(Inner {
                events: database.collection(EVENTS),
                database,
                clock: Clock::new(),
                known: Known::default(),
                live: LiveEvents::default(),
                publisher: config.publisher.into(),
                timeout: config.operation_timeout,
            }),
        };
        repeat(store.inner.timeout, || store.inner.database.run_command(doc! { "ping": 1 })).await?;
        let indexes = vec![
            index("log", doc! { "a": 1, "n": 1 }, false),
            index("positions", doc! { "first": 1, "last": 1 }, false),
            index("types", doc! { "events.t": 1, "first": 1 }, false),
            index("pending", doc! { "pending": 1 }, false),
            index(EVENT_IDS, doc! { "events.i": 1 }, true),
        ];
        store.inner.ensure_indexes(&store.inner.events, indexes).await?;
        Ok(store)
    }
}

/// The driver's options. Its texts about a uri quote parts of it, so what is wrong with one is said without them.
async fn parse(config: &MongoConfig) -> Result<ClientOptions, StoreError> {
    let mut options = ClientOptions::parse(&config.uri).await.map_err(|error| match *error.kind {
        mongodb::error::ErrorKind::DnsResolve { .. } => StoreError::from(Failure::from(error)),
        kind => StoreError::Invalid(format!("the store's uri: {}", redact(&config.uri, &kind.to_string()))),
    })?;
    options.app_name.get_or_insert_with(|| "runmesh".to_owned());
    options.max_pool_size.get_or_insert(config.max_pool_size);
    options.connect_timeout.get_or_insert(config.connect_timeout);
    options.server_selection_timeout.get_or_insert(config.server_selection_timeout);
    Ok(options)
}

/// A text without what stands before the host in a uri.
fn redact(uri: &str, text: &str) -> String {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let Some((credentials, _)) = rest.rsplit_once('@') else { return text.to_owned() };
    let parts = [credentials].into_iter().chain(credentials.split([':', '@', '/']));
    parts.filter(|part| !part.is_empty()).fold(text.to_owned(), |text, part| text.replace(part, "***"))
}

fn index(name: &str, keys: Document, unique: bool) -> IndexModel {
    let options = IndexOptions::builder().name(name.to_owned()).unique(unique.then_some(true)).build();
    IndexModel::builder().keys(keys).options(options).build()
}

impl Inner {
    /// Makes indexes, and the collection, where they are missing.
    async fn ensure_indexes(
        &self,
        collection: &Collection<Document>,
        indexes: Vec<IndexModel>,
    ) -> Result<(), StoreError> {
        // One by one: FerretDB breaks on a list of which it has several already.
        for index in indexes {
            self.ensure_index(collection, index).await?;
        }
        Ok(())
    }

    async fn ensure_index(&self, collection: &Collection<Document>, index: IndexModel) -> Result<(), StoreError> {
        let made = repeat(self.timeout, || collection.create_index(index.clone())).await;
        made.map(drop).map_err(|failure| match failure {
            Failure::Lasting(StoreError::Backend(text)) => {
                StoreError::Invalid(format!("the indexes of collection {} can't be made: {text}", collection.name()))
            }
            Failure::Duplicate { .. } => {
                StoreError::Corrupt(format!("collection {} holds an event id twice", collection.name()))
            }
            failure => failure.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_uri_is_told_without_its_password() {
        for uri in [
            "mongodb://user:s3cret@",
            "mongodb://user:s3cret@:x/",
            "mongodb://us:er:s3cret@host/",
            "mongodb://user:s3cret@host:1234567/",
            "mongodb://user:s3cret@host/?authMechanism=s3cret",
            "mongodb://user:s3cret%@host/",
            "http://user:s3cret@host/",
        ] {
            let error = parse(&MongoConfig::new(uri)).await.unwrap_err();
            assert!(matches!(&error, StoreError::Invalid(text) if !text.contains("s3cret")), "{uri}: {error:?}");
        }
        assert!(!format!("{:?}", MongoConfig::new("mongodb://user:s3cret@host/")).contains("s3cret"));
    }

    #[tokio::test]
    async fn what_the_uri_says_wins() {
        let options = parse(&MongoConfig::new("mongodb://host/name?maxPoolSize=7")).await.unwrap();
        assert_eq!((options.max_pool_size, options.default_database.as_deref()), (Some(7), Some("name")));
        assert_eq!(options.server_selection_timeout, Some(Duration::from_secs(5)));
    }
}
