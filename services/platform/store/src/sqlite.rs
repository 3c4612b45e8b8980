//! Events and documents in one SQLite file.
//!
//! One thread writes; what arrives while it commits goes into its next commit together. Readers have connections of
//! their own and never wait for the writer (WAL). The event table is also what the embedded bus reads: [`records`].
//!
//! The file belongs to one process at a time: a lock file beside it refuses a second one.

mod collection;
mod documents;
mod events;
mod inspect;
mod memory;
mod queue;
mod reader;
pub mod records;
mod scan;
mod schema;
mod tallies;
mod writer;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, config::DbConfig};

use crate::{LiveEvents, StoreError};
use memory::Memory;
use reader::Readers;
use tallies::Counted;
use writer::Writer;

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The operating system has the data: it survives the end of the process, however it comes, but the last moments
    /// before a power cut may be lost.
    #[default]
    Process,
    /// The disk has the data: it survives a power cut too.
    Power,
}

/// How an event store in SQLite is opened.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The file. It is made where it is missing, with its folder.
    pub path: PathBuf,
    /// What a commit waits for.
    pub durability: Durability,
    /// Whether a relay publishes the events to another bus. Where the embedded bus reads them from the file itself,
    /// there is nothing to publish and nothing to mark.
    pub relayed: bool,
}

impl SqliteConfig {
    /// A store in this file with the defaults: `Durability::Process`, read by the embedded bus.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), durability: Durability::default(), relayed: false }
    }
}

/// An open store. Clones share it; the last one closes it.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Fields are dropped in this order: the writer ends before the lock is given back.
    writer: Writer,
    readers: Readers,
    memory: Arc<Memory>,
    live: LiveEvents,
    counted: Counted,
    relayed: bool,
    _lock: File,
}

impl SqliteStore {
    /// Opens the file, and makes it where it is missing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when another process has it open or the path can't be used;
    /// [`StoreError::Corrupt`] when it is not a store of this version.
    pub fn open(config: &SqliteConfig) -> Result<Self, StoreError> {
        let unusable = |error: std::io::Error| {
            StoreError::Invalid(format!("store file {} can't be used: {error}", config.path.display()))
        };
        if let Some(folder) = config.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(unusable)?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(config.path.with_extension("lock"))
            .map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                StoreError::Invalid(format!("store file {} is in use by another process", config.path.display()))
            }
            TryLockError::Error(error) => unusable(error),
        })?;
        let connection = connect(&config.path, config.durability)?;
        schema::prepare(&connection)?;
        let live = LiveEvents::default();
        let checkpoints = connect(&config.path, config.durability)?;
        let memory = Arc::new(Memory::new(records::newest(&connection)?));
        let writer = Writer::start(connection, checkpoints, Arc::clone(&memory), live.clone(), config.durability)?;
        let readers = Readers::new(config.path.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                readers,
                memory,
                live,
                counted: Counted::default(),
                relayed: config.relayed,
                _lock: lock,
            }),
        })
    }
}

/// A connection that may write.
fn connect(path: &Path, durability: Durability) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(backend)?;
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    connection.pragma_update(None, "journal_mode", "WAL").map_err(backend)?;
    connection.pragma_update(None, "synchronous", synchronous).map_err(backend)?;
    // Checkpoints are made by a thread of their own, so that no commit waits for one.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(backend)?;
    tune(&connection)?;
    Ok(connection)
}

fn tune(connection: &Connection) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(128);
    // Otherwise SQLite plans a kept statement anew whenever another text is bound to it, in case another plan were better
    // for that one: each append did that, with its look for the newest sequence.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(backend)?;
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(backend)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(backend)?;
    connection.pragma_update(None, "cache_size", -8_000).map_err(backend)?;
    Ok(())
}

fn backend(error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen,
        ) => StoreError::Unavailable(error.to_string()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Backend(error.to_string()),
    }
}
