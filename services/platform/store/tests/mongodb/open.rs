//! Opening a store, and being told why it can't be.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::TryStreamExt as _;
use mongodb::{
    Client, IndexModel,
    bson::{Document, doc},
    options::IndexOptions,
};
use runmesh_servers::MongoLike;
use runmesh_store::{
    Document as _, DocumentKind, DocumentStore, Documents, MongoStore, StoreError,
    conformance::{Job, event, run},
    mongodb::MongoConfig,
};
use tokio::net::TcpListener;

use crate::harness::{TestDatabase, append};

fn impatient(uri: &str) -> MongoConfig {
    MongoConfig {
        connect_timeout: Duration::from_millis(300),
        server_selection_timeout: Duration::from_millis(300),
        operation_timeout: Duration::from_secs(8),
        ..MongoConfig::new(uri)
    }
}

/// Whoever is not there, or says nothing, is not waited for beyond the timeout.
#[tokio::test]
async fn a_server_that_does_not_answer_is_unavailable_in_time() {
    run(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        for address in [silent.local_addr().unwrap(), closed] {
            for options in ["", "?directConnection=true"] {
                let begun = Instant::now();
                let opened = MongoStore::open(impatient(&format!("mongodb://u:s3cret@{address}/{options}"))).await;
                assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
                let error = opened.unwrap_err();
                let text = error.to_string();
                assert!(error.is_transient() && text.contains(&address.port().to_string()), "{text}");
                assert!(!text.contains("s3cret"), "{text}");
            }
        }
    })
    .await;
}

/// What is wrong with the settings is told as that, and is no reason to try again.
#[tokio::test]
async fn a_wrong_uri_is_invalid() {
    for uri in ["", "mongodb://", "sqlite:x", "mongodb://host:port/", "mongodb://host/?maxPoolSize=many"] {
        let error = MongoStore::open(impatient(uri)).await.unwrap_err();
        assert!(matches!(&error, StoreError::Invalid(text) if text.contains("uri")), "{uri}: {error:?}");
    }
}

/// A user that the server does not know does not get in, is told so, and the password is not in the text.
#[tokio::test]
async fn a_wrong_password_is_refused() {
    run(async {
        let server = MongoLike::start().unwrap();
        let uri = server.uri().replace("mongodb://", "mongodb://user:s3cret@");
        let error = MongoStore::open(MongoConfig::new(&uri)).await.unwrap_err();
        let text = error.to_string();
        assert!(!error.is_transient() && text.contains("credentials"), "{error:?}");
        assert!(!text.contains("s3cret"), "{text}");
    })
    .await;
}

/// The database is the one that the uri names.
#[tokio::test]
async fn the_uri_names_the_database() {
    run(async {
        let server = MongoLike::start().unwrap();
        for (path, name) in [("", "runmesh"), ("mine", "mine")] {
            let uri = server.uri().replace("/?", &format!("/{path}?"));
            let store = MongoStore::open(MongoConfig::new(&uri)).await.unwrap();
            append(&store, &"a".into(), vec![event(1)]).await;
            let raw = Client::with_uri_str(&uri).await.unwrap().database(name);
            assert_eq!(raw.collection::<Document>("events").count_documents(doc! {}).await.unwrap(), 1, "{name}");
        }
    })
    .await;
}

/// The indexes are there after the first process has opened the store, and others find them as they are.
#[tokio::test]
async fn indexes_are_made_once() {
    run(async {
        let database = TestDatabase::new();
        for process in ["one", "two"] {
            let store = database.open(process).await;
            store.ensure_collection(DocumentKind::of::<Job>()).await.unwrap();
            let raw = database.raw().await;
            for (collection, expected) in [
                ("events", &["_id_", "event_ids", "log", "pending", "positions", "types"][..]),
                (Job::COLLECTION, &["_id_", "by_owner", "by_priority", "due"]),
            ] {
                let indexes = raw.collection::<Document>(collection).list_indexes().await.unwrap();
                let indexes: Vec<IndexModel> = indexes.try_collect().await.unwrap();
                let mut names: Vec<String> = indexes.into_iter().filter_map(|i| i.options?.name).collect();
                names.sort_unstable();
                assert_eq!(names, expected);
            }
        }
    })
    .await;
}

/// An index of the same name that is another one is not taken for it.
#[tokio::test]
async fn an_index_that_is_another_one_is_told_by_its_name() {
    run(async {
        let database = TestDatabase::new();
        let options = IndexOptions::builder().name("positions".to_owned()).build();
        let other = IndexModel::builder().keys(doc! { "last": 1 }).options(options).build();
        database.buckets().await.create_index(other).await.unwrap();
        let error = MongoStore::open(database.config("one")).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Invalid(text) if text.contains("positions") && text.contains("events")),
            "{error:?}"
        );
    })
    .await;
}

/// A document that the database can't take is refused before it is sent, with the limit.
#[tokio::test]
async fn a_document_that_is_too_large_is_invalid() {
    run(async {
        let database = TestDatabase::new();
        let jobs = Documents::<Job>::open(Arc::new(database.open("one").await)).await.unwrap();
        let refused = jobs.insert(&Job::new(1, &"x".repeat(16 << 20), 1)).await;
        assert!(matches!(&refused, Err(StoreError::Invalid(text)) if text.contains("15728640")), "{refused:?}");
        assert!(jobs.get("1").await.unwrap().is_none());
    })
    .await;
}

/// A kind of documents can't be kept among the events.
#[tokio::test]
async fn no_kind_of_documents_has_the_name_of_the_events() {
    run(async {
        let database = TestDatabase::new();
        let store = database.open("one").await;
        let kind = DocumentKind { collection: "events", indexes: &[], counted: &[], ..DocumentKind::of::<Job>() };
        let refused = store.ensure_collection(kind).await;
        assert!(matches!(&refused, Err(StoreError::Invalid(_))), "{refused:?}");
    })
    .await;
}
