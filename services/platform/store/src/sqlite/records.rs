//! The event table as the embedded bus sees it: records in order of position, and the groups' offsets.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::future::try_join_all;
use prost::Message as _;
use runmesh_events::{Event, EventType};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{
    SqliteStore, backend,
    events::{integer, length, micros},
};
use crate::{
    Position, StoreError,
    background::{PART, parts},
};

/// A record's headers, in order.
pub type Headers = Vec<(String, Bytes)>;

/// A record of the event table.
#[derive(Debug, Clone)]
pub struct TableRecord {
    /// Its place.
    pub position: Position,
    /// The type whose topic it is on.
    pub event_type: EventType,
    /// When it was recorded; of a record that was published by itself, the time that it was given.
    pub recorded_at: SystemTime,
    /// Its value.
    pub body: Bytes,
    /// What it is.
    pub origin: Origin,
}

/// Records of one type.
#[derive(Debug, Clone)]
pub struct TableRecords {
    /// The records, in order.
    pub records: Vec<TableRecord>,
    /// There are no others of the type up to here, so the next read goes on after this position.
    pub upto: Position,
}

/// How a record came to be.
#[derive(Debug, Clone)]
pub enum Origin {
    /// By an append. Key and headers follow from the event.
    Fact(Arc<Event>),
    /// By itself, as a redrive or a replay; or by an append whose event can't be decoded.
    Published {
        /// The key.
        key: Bytes,
        /// The headers.
        headers: Headers,
    },
}

/// A record that is published by itself.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// The type whose topic it is for.
    pub event_type: EventType,
    /// The key.
    pub key: Bytes,
    /// The headers.
    pub headers: Headers,
    /// The value.
    pub body: Bytes,
    /// The record's time. It may be long ago: a redrive keeps the time of what it repeats.
    pub timestamp: SystemTime,
}

impl SqliteStore {
    /// For each type, at most `limit` of its records after a position, in order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn records(
        &self,
        places: Vec<(EventType, Position)>,
        limit: usize,
    ) -> Result<Vec<TableRecords>, StoreError> {
        if let Some(found) = self.inner.memory.records(&places, limit) {
            return Ok(found);
        }
        self.inner.readers.run(|connection| {
            // Known before the records are read: whatever is missing among them came later.
            let newest = newest(connection)?;
            places.into_iter().map(|(event_type, after)| read(connection, event_type, after, newest, limit)).collect()
        })
    }

    /// The number of records of one type after a position.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn count_records(&self, event_type: EventType, after: Position) -> Result<u64, StoreError> {
        self.inner
            .readers
            .run_long(move |connection| {
                let count: i64 = connection
                    .prepare_cached("SELECT count(*) FROM events WHERE type = ?1 AND position > ?2")
                    .and_then(|mut s| s.query_row(params![event_type as i32, integer(after.0)], |row| row.get(0)))
                    .map_err(backend)?;
                Ok(u64::try_from(count).unwrap_or_default())
            })
            .await
    }

    /// Publishes records by themselves, all or none; in parts where that is [in no hurry](crate::in_background). Returns
    /// their positions.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn publish_records(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, StoreError> {
        Ok(try_join_all(parts(records, PART).map(|part| self.publish_part(part))).await?.concat())
    }

    async fn publish_part(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, StoreError> {
        self.inner
            .writer
            .run_many(records.len(), move |connection, effects| {
                let mut insert = connection
                    .prepare_cached(
                        "INSERT INTO events (type, recorded_at, body, record_key, headers) VALUES (?1, ?2, ?3, ?4, ?5)",
                    )
                    .map_err(backend)?;
                let mut positions = Vec::with_capacity(records.len());
                for record in &records {
                    let headers = encode_headers(&record.headers);
                    let at = micros(record.timestamp);
                    insert
                        .execute(params![record.event_type as i32, at, &record.body[..], &record.key[..], headers])
                        .map_err(backend)?;
                    let position = Position(u64::try_from(connection.last_insert_rowid()).unwrap_or_default());
                    let NewRecord { event_type, key, headers, body, timestamp } = record.clone();
                    effects.record(TableRecord {
                        position,
                        event_type,
                        recorded_at: timestamp,
                        body,
                        origin: Origin::Published { key, headers },
                    });
                    positions.push(position);
                }
                Ok(positions)
            })
            .await
    }

    /// How far a group has come in a type's records: the position of the last one that is finished, with all before it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn group_offset(&self, group: &'static str, event_type: EventType) -> Result<Position, StoreError> {
        self.inner.readers.run(|connection| {
            let position: Option<i64> = connection
                .prepare_cached("SELECT position FROM group_offsets WHERE group_name = ?1 AND type = ?2")
                .and_then(|mut s| s.query_row(params![group, event_type as i32], |row| row.get(0)).optional())
                .map_err(backend)?;
            Ok(Position(u64::try_from(position.unwrap_or_default()).unwrap_or_default()))
        })
    }

    /// Has a group of which no offset is noted begin behind the records of these types that there are now. One that is
    /// known stays where it is.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin_at_end(&self, group: &'static str, types: Vec<EventType>) -> Result<(), StoreError> {
        self.inner
            .writer
            .run(move |connection, _| {
                let known: bool = connection
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM group_offsets WHERE group_name = ?1)")
                    .and_then(|mut statement| statement.query_row([group], |row| row.get(0)))
                    .map_err(backend)?;
                if known {
                    return Ok(());
                }
                let newest = integer(newest(connection)?.0);
                let mut insert = connection
                    .prepare_cached("INSERT INTO group_offsets (group_name, type, position) VALUES (?1, ?2, ?3)")
                    .map_err(backend)?;
                for event_type in types {
                    insert.execute(params![group, event_type as i32, newest]).map_err(backend)?;
                }
                Ok(())
            })
            .await
    }

    /// Notes how far a group has come. An offset never goes back.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn commit_offsets(
        &self,
        group: &'static str,
        offsets: Vec<(EventType, Position)>,
    ) -> Result<(), StoreError> {
        self.inner
            .writer
            .run_upkeep(move |connection, _| {
                let mut upsert = connection
                    .prepare_cached(
                        "INSERT INTO group_offsets (group_name, type, position) VALUES (?1, ?2, ?3)
                         ON CONFLICT DO UPDATE SET position = max(position, excluded.position)",
                    )
                    .map_err(backend)?;
                for (event_type, position) in offsets {
                    upsert.execute(params![group, event_type as i32, integer(position.0)]).map_err(backend)?;
                }
                Ok(())
            })
            .await
    }
}

/// The position of the newest record of all.
pub(super) fn newest(connection: &Connection) -> Result<Position, StoreError> {
    let newest: i64 = connection
        .prepare_cached("SELECT coalesce(max(position), 0) FROM events")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(backend)?;
    Ok(Position(u64::try_from(newest).unwrap_or_default()))
}

pub(super) fn read(
    connection: &Connection,
    event_type: EventType,
    after: Position,
    newest: Position,
    limit: usize,
) -> Result<TableRecords, StoreError> {
    let mut statement = connection
        .prepare_cached(
            "SELECT position, recorded_at, body, record_key, headers FROM events
             WHERE type = ?1 AND position > ?2 AND position <= ?3 ORDER BY position LIMIT ?4",
        )
        .map_err(backend)?;
    let rows = statement
        .query_map(params![event_type as i32, integer(after.0), integer(newest.0), length(limit)], |row| {
            let position: i64 = row.get(0)?;
            let recorded_at: i64 = row.get(1)?;
            let body = Bytes::from(row.get::<_, Vec<u8>>(2)?);
            Ok(TableRecord {
                position: Position(u64::try_from(position).unwrap_or_default()),
                event_type,
                recorded_at: SystemTime::UNIX_EPOCH
                    + Duration::from_micros(u64::try_from(recorded_at).unwrap_or_default()),
                origin: origin(&body, row.get(3)?, row.get(4)?),
                body,
            })
        })
        .map_err(backend)?;
    let records = rows.map(|row| row.map_err(backend)).collect::<Result<Vec<TableRecord>, _>>()?;
    let upto = records.last().filter(|_| records.len() == limit).map_or(newest.max(after), |record| record.position);
    Ok(TableRecords { records, upto })
}

fn origin(body: &Bytes, key: Option<Vec<u8>>, headers: Option<Vec<u8>>) -> Origin {
    if key.is_none()
        && let Ok(event) = Event::decode(body.clone())
    {
        return Origin::Fact(Arc::new(event));
    }
    Origin::Published {
        key: key.unwrap_or_default().into(),
        headers: headers.map(|bytes| decode_headers(&bytes)).unwrap_or_default(),
    }
}

// Headers are kept as name length, name, value length, value; lengths are 32-bit, little-endian.

fn encode_headers(headers: &Headers) -> Vec<u8> {
    let mut out = Vec::new();
    for part in headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn decode_headers(mut bytes: &[u8]) -> Headers {
    let mut part = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(part)
    };
    let mut headers = Headers::new();
    while let (Some(name), Some(value)) = (part(), part()) {
        headers.push((String::from_utf8_lossy(name).into_owned(), Bytes::copy_from_slice(value)));
    }
    headers
}
