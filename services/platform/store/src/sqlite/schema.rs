//! The tables.

use rusqlite::Connection;

use super::backend;
use crate::StoreError;

/// The version of the schema, kept in the file's `user_version`.
const VERSION: i64 = 1;

// A row of `events` is a fact (aggregate and sequence are set) or a record that was published by itself, such as a
// redrive or a replay (record_key and headers are set). Facts derive their key and headers.
const TABLES: &str = "
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    type INTEGER NOT NULL,
    event_id BLOB,
    aggregate TEXT,
    sequence INTEGER,
    recorded_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    record_key BLOB,
    headers BLOB,
    unpublished INTEGER
);
CREATE UNIQUE INDEX events_by_aggregate ON events (aggregate, sequence) WHERE aggregate IS NOT NULL;
CREATE UNIQUE INDEX events_by_id ON events (event_id) WHERE event_id IS NOT NULL;
CREATE INDEX events_by_type ON events (type, position);
CREATE INDEX events_unpublished ON events (position) WHERE unpublished IS NOT NULL;
CREATE TABLE group_offsets (
    group_name TEXT NOT NULL,
    type INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (group_name, type)
) WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// Makes the tables in a new file; refuses a file of another version.
pub(super) fn prepare(connection: &Connection) -> Result<(), StoreError> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(backend)?;
    match version {
        VERSION => Ok(()),
        0 => connection.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} COMMIT;")).map_err(backend),
        other => Err(StoreError::Corrupt(format!("the file has schema version {other}, this program {VERSION}"))),
    }
}
