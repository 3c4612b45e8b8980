//! Connections that read.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OpenFlags};

use super::{backend, tune};
use crate::StoreError;

/// How many idle connections are kept.
const IDLE: usize = 8;

/// A pool of connections that can't write. It grows as needed and keeps a few.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { pool: Arc::new(Pool { path, idle: Mutex::new(Vec::new()) }) }
    }

    /// Runs a short `work` with a connection, here and now: a few rows by an index, which take less than the way to
    /// another thread and back.
    pub(super) fn run<R>(&self, work: impl FnOnce(&Connection) -> Result<R, StoreError>) -> Result<R, StoreError> {
        let connection = self.pool.take()?;
        let result = work(&connection);
        self.pool.give_back(connection);
        result
    }

    /// Runs a `work` that may be long on a thread where it may block.
    pub(super) async fn run_long<R, F>(&self, work: F) -> Result<R, StoreError>
    where
        R: Send + 'static,
        F: FnOnce(&Connection) -> Result<R, StoreError> + Send + 'static,
    {
        let readers = self.clone();
        tokio::task::spawn_blocking(move || readers.run(work))
            .await
            .map_err(|error| StoreError::Backend(format!("a read did not end: {error}")))?
    }
}

impl Pool {
    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(backend)?;
        tune(&connection)?;
        connection.pragma_update(None, "query_only", true).map_err(backend)?;
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }
}
