//! The SQLite store: the suite, and what is SQLite's own.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use runmesh_events::AggregateId;
use runmesh_store::{
    DocumentStore, Documents, EventStore, SqliteStore, StoreError,
    conformance::{Harness, Job, append, event, sequences},
    in_background,
    sqlite::{Durability, SqliteConfig},
};
use rusqlite::Connection;
use tempfile::TempDir;

struct Sqlite {
    folder: TempDir,
    store: SqliteStore,
}

fn config(folder: &Path) -> SqliteConfig {
    SqliteConfig { relayed: true, ..SqliteConfig::new(folder.join("data").join("runmesh.db")) }
}

#[async_trait]
impl Harness for Sqlite {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&config(folder.path())).unwrap();
        Self { folder, store }
    }

    fn events(&self) -> Arc<dyn EventStore> {
        Arc::new(self.store.clone())
    }

    fn documents(&self) -> Arc<dyn DocumentStore> {
        Arc::new(self.store.clone())
    }

    async fn reopen(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        let store = SqliteStore::open(&config(folder.path())).unwrap();
        Self { folder, store }
    }
}

runmesh_store::store_suite!(Sqlite);

/// Appends to many logs are each by themselves, in one go or in the parts of what is in no hurry.
#[tokio::test]
async fn many_logs_are_appended_to_at_once() {
    let harness = Sqlite::new().await;
    let store = harness.events();
    let id = |number: usize| AggregateId::from(format!("log {number}").as_str());
    let known = event("known");
    append(&*store, "log 3", vec![known.clone()]).await;
    let mut appends: Vec<_> = (0..20).map(|number| (id(number), vec![event(number), event("more")])).collect();
    appends[3].1 = vec![known.clone()];
    appends[4].1 = Vec::new();
    appends[5].1[1] = known;
    let others = appends.split_off(10);
    let mut results = store.append_each(appends).await;
    results.extend(in_background(store.append_each(others)).await);
    for (number, result) in results.into_iter().enumerate() {
        let count = match number {
            3 => result.unwrap().duplicate.into(),
            4 => matches!(result, Err(StoreError::Invalid(_))).then_some(0).unwrap(),
            5 => matches!(result, Err(StoreError::EventIdInUse(_))).then_some(0).unwrap(),
            _ => sequences(&result.unwrap().events).len() as u64,
        };
        assert_eq!(store.head(&id(number)).await.unwrap(), count, "log {number}");
    }
}

/// Many documents are read in the order in which they are asked for.
#[tokio::test]
async fn many_documents_are_read_at_once() {
    let harness = Sqlite::new().await;
    let jobs: Documents<Job> = Documents::open(harness.documents()).await.unwrap();
    for id in 0..20 {
        jobs.insert(&Job::new(id, "ann", 1)).await.unwrap();
    }
    let ids = ["7", "none", "19", "7", "0"].map(str::to_owned).to_vec();
    let found = jobs.get_many(ids.clone()).await.unwrap();
    for (id, found) in ids.into_iter().zip(found) {
        assert_eq!(found, jobs.get(&id).await.unwrap(), "{id}");
    }
    assert!(jobs.get_many(Vec::new()).await.unwrap().is_empty());
}

/// Files of before have triggers that count documents; what the writer counts itself is not counted twice.
#[tokio::test]
async fn a_file_that_counts_by_triggers_goes_on_with_the_same_numbers() {
    let harness = Sqlite::new().await;
    let jobs: Documents<Job> = Documents::open(harness.documents()).await.unwrap();
    jobs.insert(&Job::new("a", "ann", 1)).await.unwrap();
    let Sqlite { folder, store } = harness;
    drop((jobs, store));
    let file = Connection::open(config(folder.path()).path).unwrap();
    let table = "count_conformance_jobs_owner";
    file.execute_batch(&format!(
        "CREATE TRIGGER {table}_insert AFTER INSERT ON doc_conformance_jobs
         BEGIN INSERT INTO {table} VALUES (new.f_owner, 1) ON CONFLICT DO UPDATE SET count = count + 1; END;"
    ))
    .unwrap();
    drop(file);
    let store = SqliteStore::open(&config(folder.path())).unwrap();
    let jobs: Documents<Job> = Documents::open(Arc::new(store)).await.unwrap();
    jobs.insert(&Job::new("b", "ann", 1)).await.unwrap();
    jobs.insert(&Job::new("c", "bob", 1)).await.unwrap();
    let counts: Vec<_> = jobs.count_by("by_owner").await.unwrap().into_iter().map(|(_, count)| count).collect();
    assert_eq!(counts, [2, 1]);
}

/// Nothing is found by an index that a kind of documents no longer has, and each write costs a change of it.
#[tokio::test]
async fn an_index_that_a_kind_no_longer_has_is_removed() {
    let Sqlite { folder, store } = Sqlite::new().await;
    let open = |store| Documents::<Job>::open(Arc::new(store));
    open(store.clone()).await.unwrap();
    drop(store);
    let indexes = || {
        let file = Connection::open(config(folder.path()).path).unwrap();
        let sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'doc_conformance_jobs'
                   AND sql IS NOT NULL ORDER BY name";
        let mut statement = file.prepare(sql).unwrap();
        let names = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        names.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let made = indexes();
    let names = ["by_owner", "by_priority", "due"].map(|name| format!("doc_conformance_jobs_{name}"));
    assert_eq!(made, names);
    let file = Connection::open(config(folder.path()).path).unwrap();
    file.execute_batch("CREATE INDEX doc_conformance_jobs_by_body ON doc_conformance_jobs (body, id)").unwrap();
    drop(file);
    assert_ne!(indexes(), made);
    let store = SqliteStore::open(&config(folder.path())).unwrap();
    open(store).await.unwrap();
    assert_eq!(indexes(), made);
}

/// A file belongs to one store at a time.
#[tokio::test]
async fn a_second_store_on_the_file_is_refused() {
    let Sqlite { folder, store } = Sqlite::new().await;
    let second = SqliteStore::open(&config(folder.path()));
    assert!(matches!(&second, Err(StoreError::Invalid(text)) if text.contains("in use")), "{second:?}");
    drop(store);
    SqliteStore::open(&config(folder.path())).unwrap();
}

/// What a call has answered is in the files, whatever becomes of the process: a copy of them, taken while the store is
/// open, is what `kill -9` leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_the_end_of_the_process() {
    for durability in [Durability::Process, Durability::Power] {
        let folder = tempfile::tempdir().unwrap();
        let open = SqliteStore::open(&SqliteConfig { durability, ..config(folder.path()) }).unwrap();
        for number in 0..30 {
            append(&open, "a", vec![event(number)]).await;
        }
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("data")).unwrap();
        for file in ["runmesh.db", "runmesh.db-wal"] {
            std::fs::copy(folder.path().join("data").join(file), copy.path().join("data").join(file)).unwrap();
        }
        let store = SqliteStore::open(&config(copy.path())).unwrap();
        let events = store.read(&AggregateId::from("a"), 0, 100, &[]).await.unwrap();
        assert_eq!(sequences(&events), (1..=30).collect::<Vec<_>>());
        assert_eq!(append(&store, "a", vec![event("next")]).await.last_sequence(), 31);
    }
}

/// A file of another version, or of something else, is left alone.
#[tokio::test]
async fn a_file_that_is_not_a_store_of_this_version_is_refused() {
    let Sqlite { folder, store } = Sqlite::new().await;
    drop(store);
    let path = config(folder.path()).path;
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let opened = SqliteStore::open(&config(folder.path()));
    assert!(matches!(&opened, Err(StoreError::Corrupt(text)) if text.contains("99")), "{opened:?}");
    std::fs::write(&path, b"this is a text, and quite a long one, so that it is not taken for an empty file").unwrap();
    let opened = SqliteStore::open(&config(folder.path()));
    assert!(matches!(&opened, Err(StoreError::Corrupt(_))), "{opened:?}");
    let nowhere = SqliteConfig::new("/dev/null/runmesh.db");
    assert!(matches!(SqliteStore::open(&nowhere), Err(StoreError::Invalid(_))));
}
