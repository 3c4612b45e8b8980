//! The event store in SQLite.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use prost::Message as _;
use runmesh_events::{AggregateId, Event, EventId, EventType, NewEvent, Payload};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    SqliteStore, backend,
    documents::{Kept, put},
    records::{Origin, TableRecord},
    scan::{Direction, scan},
    writer::{self, Effects},
};
use crate::{
    Ahead, Appended, Behind, EventStore, Expected, Filter, LiveEvents, Position, StoreError, Stored, Unpublished,
    background::{PART, parts},
    record::{check_append, decode, record, with_payload},
};

pub(super) use crate::record::{integer, micros};

const HEAD: &str = "SELECT coalesce(max(sequence), 0) FROM events WHERE aggregate = ?1";
const INSERT: &str = "INSERT INTO events (type, event_id, aggregate, sequence, recorded_at, body, unpublished)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

#[async_trait]
impl EventStore for SqliteStore {
    async fn append(
        &self,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        check_append(aggregate, &events)?;
        let (aggregate, relayed) = (aggregate.clone(), self.inner.relayed);
        self.inner
            .writer
            .run(move |connection, effects| append(connection, effects, &aggregate, expected, events, relayed))
            .await
    }

    async fn append_behind(
        &self,
        document: Ahead,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Behind, StoreError> {
        check_append(aggregate, &events)?;
        let (aggregate, relayed) = (aggregate.clone(), self.inner.relayed);
        let Ahead { collection, write } = document;
        let counted = self.inner.counted.of(collection);
        let both = move |connection: &Connection, effects: &mut Effects| {
            let revision = put(connection, effects, &Kept { collection, counted: &counted }, write, None)?;
            match append(connection, effects, &aggregate, expected, events, relayed) {
                Err(error) if writer::is_broken(&error) => Err(error),
                appended => Ok(Behind { revision, appended }),
            }
        };
        self.inner.writer.run(both).await
    }

    async fn append_each(&self, appends: Vec<(AggregateId, Vec<NewEvent>)>) -> Vec<Result<Appended, StoreError>> {
        let parts = parts(appends, PART).map(|part| self.append_part(part));
        join_all(parts).await.into_iter().flatten().collect()
    }

    async fn read(
        &self,
        aggregate: &AggregateId,
        after: u64,
        limit: usize,
        types: &[EventType],
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        if let Some(events) = self.inner.memory.read(aggregate, after, limit, types) {
            return Ok(events);
        }
        self.inner.readers.run(|connection| {
            let sql = format!(
                "SELECT body FROM events WHERE aggregate = ?1 AND sequence > ?2{} ORDER BY sequence LIMIT ?3",
                type_condition(types)
            );
            let mut statement = connection.prepare_cached(&sql).map_err(backend)?;
            let rows = statement
                .query_map(params![aggregate.as_str(), integer(after), length(limit)], |row| row.get(0))
                .map_err(backend)?;
            rows.map(|body: Result<Vec<u8>, _>| decode(&body.map_err(backend)?)).collect()
        })
    }

    async fn head(&self, aggregate: &AggregateId) -> Result<u64, StoreError> {
        match self.inner.memory.head(aggregate) {
            Some(head) => Ok(head),
            None => self.inner.readers.run(|connection| head(connection, aggregate)),
        }
    }

    async fn get(&self, id: &EventId) -> Result<Option<Stored>, StoreError> {
        self.inner.readers.run(|connection| find(connection, id))
    }

    async fn scan(&self, filter: &Filter, after: Position, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.scan_to(filter, Direction::Forwards, after, limit).await
    }

    async fn scan_back(&self, filter: &Filter, before: Position, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.scan_to(filter, Direction::Backwards, before, limit).await
    }

    async fn newest(&self) -> Result<Position, StoreError> {
        self.greatest_position().await
    }

    async fn unpublished(&self, after: Position, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        self.inner
            .readers
            .run_long(move |connection| {
                let mut statement = connection
                    .prepare_cached(
                        "SELECT position, body FROM events WHERE unpublished IS NOT NULL AND position > ?1
                         ORDER BY position LIMIT ?2",
                    )
                    .map_err(backend)?;
                let rows = statement
                    .query_map(params![integer(after.0), length(limit)], position_and_body)
                    .map_err(backend)?;
                rows.map(|row| Ok(Unpublished { stored: stored(row.map_err(backend)?)?, publisher: String::new() }))
                    .collect()
            })
            .await
    }

    async fn mark_published(&self, events: &[Stored]) -> Result<(), StoreError> {
        let positions: Vec<Position> = events.iter().map(|stored| stored.position).collect();
        self.inner
            .writer
            .run_many(positions.len(), move |connection, _| {
                let mut statement = connection
                    .prepare_cached("UPDATE events SET unpublished = NULL WHERE position = ?1")
                    .map_err(backend)?;
                for position in positions {
                    statement.execute([integer(position.0)]).map_err(backend)?;
                }
                Ok(())
            })
            .await
    }

    async fn replace_payload(&self, id: &EventId, payload: Payload) -> Result<Option<Stored>, StoreError> {
        let id = *id;
        self.inner.writer.run(move |connection, effects| replace_payload(connection, effects, &id, payload)).await
    }

    async fn delete_aggregate(&self, aggregate: &AggregateId) -> Result<(), StoreError> {
        let aggregate = aggregate.clone();
        self.inner
            .writer
            .run_long(move |connection, effects| {
                connection
                    .prepare_cached("DELETE FROM events WHERE aggregate = ?1")
                    .and_then(|mut statement| statement.execute([aggregate.as_str()]))
                    .map_err(backend)?;
                effects.deleted(aggregate);
                Ok(())
            })
            .await
    }

    fn live(&self) -> &LiveEvents {
        &self.inner.live
    }

    fn is_shared(&self) -> bool {
        false
    }
}

impl SqliteStore {
    /// Appends to many aggregates in one go.
    async fn append_part(&self, appends: Vec<(AggregateId, Vec<NewEvent>)>) -> Vec<Result<Appended, StoreError>> {
        let (count, relayed) = (appends.len(), self.inner.relayed);
        let append_all = move |connection: &Connection, effects: &mut Effects| {
            let mut results = Vec::with_capacity(appends.len());
            for (aggregate, events) in appends {
                let appended = check_append(&aggregate, &events)
                    .and_then(|()| append(connection, effects, &aggregate, Expected::Any, events, relayed));
                match appended {
                    Err(error) if writer::is_broken(&error) => return Err(error),
                    result => results.push(result),
                }
            }
            Ok(results)
        };
        self.inner.writer.run_many(count, append_all).await.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn scan_to(
        &self,
        filter: &Filter,
        direction: Direction,
        beyond: Position,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let filter = filter.clone();
        self.inner.readers.run_long(move |connection| scan(connection, &filter, direction, beyond, limit)).await
    }
}

fn append(
    connection: &Connection,
    effects: &mut Effects,
    aggregate: &AggregateId,
    expected: Expected,
    events: Vec<NewEvent>,
    relayed: bool,
) -> Result<Appended, StoreError> {
    let head = head(connection, aggregate)?;
    if let Expected::Sequence(expected) = expected
        && expected != head
    {
        // A repeated append is no conflict, however far the aggregate has come since.
        return repeated(connection, aggregate, &events)?.ok_or_else(|| StoreError::Conflict {
            aggregate: aggregate.clone(),
            expected,
            actual: head,
        });
    }
    let now = SystemTime::now();
    let mut insert = connection.prepare_cached(INSERT).map_err(backend)?;
    let mut recorded = Vec::with_capacity(events.len());
    for (sequence, new) in (head + 1..).zip(&events) {
        let event_type = new.event_type();
        let event = record(new, aggregate, sequence, now);
        let body = Bytes::from(event.encode_to_vec());
        let inserted = insert.execute(params![
            event_type as i32,
            new.event_id.as_bytes(),
            aggregate.as_str(),
            integer(sequence),
            micros(now),
            &body[..],
            relayed.then_some(1),
        ]);
        if let Err(error) = inserted {
            if error.sqlite_error_code() != Some(rusqlite::ErrorCode::ConstraintViolation) {
                return Err(backend(error));
            }
            // The aggregate's next sequence is free, so it is the id that is taken.
            undo(connection, aggregate, head)?;
            return repeated(connection, aggregate, &events)?.ok_or(StoreError::EventIdInUse(new.event_id));
        }
        let position = Position(u64::try_from(connection.last_insert_rowid()).unwrap_or_default());
        let event = Arc::new(event);
        let origin = Origin::Fact(Arc::clone(&event));
        recorded.push((event, TableRecord { position, event_type, recorded_at: now, body, origin }));
    }
    let mut events = Vec::with_capacity(recorded.len());
    for (event, record) in recorded {
        events.push(event);
        effects.record(record);
    }
    Ok(Appended { events, duplicate: false })
}

fn replace_payload(
    connection: &Connection,
    effects: &mut Effects,
    id: &EventId,
    payload: Payload,
) -> Result<Option<Stored>, StoreError> {
    let Some(found) = find(connection, id)? else { return Ok(None) };
    let event = Arc::new(with_payload(&found.event, payload)?);
    let body = Bytes::from(event.encode_to_vec());
    connection
        .prepare_cached("UPDATE events SET body = ?2 WHERE position = ?1")
        .and_then(|mut statement| statement.execute(params![integer(found.position.0), &body[..]]))
        .map_err(backend)?;
    let stored = Stored { position: found.position, event };
    effects.replaced(stored.clone(), body);
    Ok(Some(stored))
}

/// Takes back what a batch inserted before one of its ids turned out to be taken.
fn undo(connection: &Connection, aggregate: &AggregateId, head: u64) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM events WHERE aggregate = ?1 AND sequence > ?2")
        .and_then(|mut statement| statement.execute(params![aggregate.as_str(), integer(head)]))
        .map(drop)
        .map_err(backend)
}

/// The events as they were recorded, when all of them were, in this aggregate.
fn repeated(
    connection: &Connection,
    aggregate: &AggregateId,
    events: &[NewEvent],
) -> Result<Option<Appended>, StoreError> {
    let mut found = Vec::with_capacity(events.len());
    for event in events {
        match find(connection, &event.event_id)? {
            Some(stored) if stored.event.aggregate_id == aggregate.as_str() => found.push(stored.event),
            _ => return Ok(None),
        }
    }
    Ok(Some(Appended { events: found, duplicate: true }))
}

fn head(connection: &Connection, aggregate: &AggregateId) -> Result<u64, StoreError> {
    let head: i64 = connection
        .prepare_cached(HEAD)
        .and_then(|mut statement| statement.query_row([aggregate.as_str()], |row| row.get(0)))
        .map_err(backend)?;
    u64::try_from(head).map_err(|_| StoreError::Corrupt(format!("aggregate {aggregate} has a negative sequence")))
}

fn find(connection: &Connection, id: &EventId) -> Result<Option<Stored>, StoreError> {
    connection
        .prepare_cached("SELECT position, body FROM events WHERE event_id = ?1")
        .and_then(|mut statement| statement.query_row([id.as_bytes()], position_and_body).optional())
        .map_err(backend)?
        .map(stored)
        .transpose()
}

pub(super) fn position_and_body(row: &Row<'_>) -> rusqlite::Result<(i64, Vec<u8>)> {
    Ok((row.get(0)?, row.get(1)?))
}

pub(super) fn stored((position, body): (i64, Vec<u8>)) -> Result<Stored, StoreError> {
    Ok(Stored { position: Position(u64::try_from(position).unwrap_or_default()), event: decode(&body)? })
}

/// Types are numbers of an enum, so they are written into the statement: it can then be kept prepared.
fn type_condition(types: &[EventType]) -> String {
    if types.is_empty() {
        return String::new();
    }
    let numbers: Vec<String> = types.iter().map(|event_type| (*event_type as i32).to_string()).collect();
    format!(" AND type IN ({})", numbers.join(", "))
}

pub(super) fn length(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
