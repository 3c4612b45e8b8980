//! The extent of the event table, for those who compare it with what groups have done.

use std::time::SystemTime;

use runmesh_events::EventType;
use rusqlite::{OptionalExtension as _, params};

use super::{
    SqliteStore, backend,
    events::micros,
    records::{self, TableRecords},
};
use crate::{Position, StoreError};

impl SqliteStore {
    /// The greatest position that was ever given to a record, also to one that was deleted since.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn greatest_position(&self) -> Result<Position, StoreError> {
        self.inner.readers.run(|connection| {
            let greatest: Option<i64> = connection
                .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
                .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
                .map_err(backend)?;
            Ok(Position(u64::try_from(greatest.unwrap_or_default()).unwrap_or_default()))
        })
    }

    /// The position of a type's first record of this time or later.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn position_at(&self, event_type: EventType, time: SystemTime) -> Result<Option<Position>, StoreError> {
        self.inner
            .readers
            .run_long(move |connection| {
                let position: Option<i64> = connection
                    .prepare_cached(
                        "SELECT position FROM events WHERE type = ?1 AND recorded_at >= ?2 ORDER BY position LIMIT 1",
                    )
                    .and_then(|mut statement| {
                        statement.query_row(params![event_type as i32, micros(time)], |row| row.get(0)).optional()
                    })
                    .map_err(backend)?;
                Ok(position.and_then(|position| u64::try_from(position).ok()).map(Position))
            })
            .await
    }

    /// At most `limit` of a type's records after a position, in order, as the file has them: [`SqliteStore::records`] may
    /// have the newest from memory.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn records_of_file(
        &self,
        event_type: EventType,
        after: Position,
        limit: usize,
    ) -> Result<TableRecords, StoreError> {
        self.inner
            .readers
            .run_long(move |connection| {
                let newest = records::newest(connection)?;
                records::read(connection, event_type, after, newest, limit)
            })
            .await
    }
}
