//! Documents in SQLite: a table for each collection, a column for each indexed field.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use rusqlite::{
    Connection, OptionalExtension as _, params, params_from_iter,
    types::{Value, ValueRef},
};

use super::{
    SqliteStore, backend, collection,
    events::length,
    tallies,
    writer::{self, Effects},
};
use crate::{
    DocumentKind, DocumentStore, Index, IndexValue, Page, PageQuery, RawDocument, RawWrite, Revision, StoreError,
    Versioned, background::parts, page, record::micros,
};

/// How many documents are written in one go where that is in no hurry.
const BACKGROUND_PART: usize = 4;

#[async_trait]
impl DocumentStore for SqliteStore {
    async fn ensure_collection(&self, kind: DocumentKind) -> Result<(), StoreError> {
        self.inner.writer.run_long(move |connection, _| collection::ensure(connection, kind)).await?;
        self.inner.counted.set(kind.collection, collection::counted(kind)?);
        Ok(())
    }

    async fn get(&self, collection: &'static str, id: &str) -> Result<Option<RawDocument>, StoreError> {
        self.inner.readers.run(|connection| {
            let sql = format!("SELECT id, revision, body FROM doc_{collection} WHERE id = ?1");
            connection
                .prepare_cached(&sql)
                .and_then(|mut statement| statement.query_row([id], raw).optional())
                .map_err(backend)
        })
    }

    async fn get_many(
        &self,
        collection: &'static str,
        ids: Vec<String>,
    ) -> Result<Vec<Option<RawDocument>>, StoreError> {
        self.inner
            .readers
            .run_long(move |connection| {
                // In one transaction: otherwise each read would look for the pages of the one before anew.
                let transaction = connection.unchecked_transaction().map_err(backend)?;
                let sql = format!("SELECT id, revision, body FROM doc_{collection} WHERE id = ?1");
                let mut statement = transaction.prepare_cached(&sql).map_err(backend)?;
                ids.iter().map(|id| statement.query_row([id], raw).optional().map_err(backend)).collect()
            })
            .await
    }

    async fn put(
        &self,
        collection: &'static str,
        write: RawWrite,
        expected: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        let counted = self.inner.counted.of(collection);
        let place = move |effects: &mut Effects, connection: &Connection| {
            put(connection, effects, &Kept { collection, counted: &counted }, write, expected)
        };
        self.inner.writer.run(move |connection, effects| place(effects, connection)).await
    }

    async fn delete(&self, collection: &'static str, id: &str, expected: Option<Revision>) -> Result<bool, StoreError> {
        let (id, counted) = (id.to_owned(), self.inner.counted.of(collection));
        self.inner
            .writer
            .run(move |connection, effects| {
                let names: String = counted.iter().map(|field| format!(", f_{field}")).collect();
                let sql = format!("SELECT revision{names} FROM doc_{collection} WHERE id = ?1");
                let columns = |row: &rusqlite::Row<'_>| {
                    let values =
                        (1..=counted.len()).map(|column| row.get(column)).collect::<rusqlite::Result<Vec<_>>>()?;
                    Ok((row.get(0)?, values))
                };
                let found: Option<(i64, Vec<Value>)> = connection
                    .prepare_cached(&sql)
                    .and_then(|mut s| s.query_row([&id], columns).optional())
                    .map_err(backend)?;
                let Some((found, values)) = found else { return Ok(false) };
                if expected.is_some_and(|expected| expected != revision(found)) {
                    return Err(StoreError::RevisionMismatch { collection, id });
                }
                for (field, value) in counted.iter().zip(values) {
                    effects.tallies.add(collection, field, from_sql(value), -1);
                }
                connection
                    .prepare_cached(&format!("DELETE FROM doc_{collection} WHERE id = ?1"))
                    .and_then(|mut statement| statement.execute([&id]))
                    .map_err(backend)?;
                Ok(true)
            })
            .await
    }

    async fn delete_some(&self, collection: &'static str, limit: usize) -> Result<usize, StoreError> {
        let counted = self.inner.counted.of(collection);
        self.inner
            .writer
            .run_long(move |connection, effects| {
                let names: String = counted.iter().map(|field| format!(", f_{field}")).collect();
                let sql = format!(
                    "DELETE FROM doc_{collection} WHERE rowid IN (SELECT rowid FROM doc_{collection} LIMIT ?1)
                     RETURNING id{names}"
                );
                let mut statement = connection.prepare_cached(&sql).map_err(backend)?;
                let mut rows = statement.query([length(limit)]).map_err(backend)?;
                let mut removed = 0;
                while let Some(row) = rows.next().map_err(backend)? {
                    removed += 1;
                    for (column, field) in counted.iter().enumerate() {
                        let value = from_sql(row.get(column + 1).map_err(backend)?);
                        effects.tallies.add(collection, field, value, -1);
                    }
                }
                Ok(removed)
            })
            .await
    }

    async fn page(
        &self,
        collection: &'static str,
        indexes: &'static [Index],
        query: PageQuery,
    ) -> Result<Page<Bytes>, StoreError> {
        let index = page::find_index(collection, indexes, query.index)?;
        let (sql, values) = page_statement(collection, index, &query)?;
        let limit = query.limit;
        self.inner
            .readers
            .run_long(move |connection| {
                let mut statement = connection.prepare_cached(&sql).map_err(backend)?;
                let mut rows = statement.query(params_from_iter(values)).map_err(backend)?;
                let mut page = Page { documents: Vec::new(), next: None };
                let mut last = None;
                while let Some(row) = rows.next().map_err(backend)? {
                    if page.documents.len() == limit {
                        page.next = last;
                        break;
                    }
                    let document: RawDocument = raw(row).map_err(backend)?;
                    let mut place = Vec::new();
                    for column in 3..row.as_ref().column_count() {
                        place.push(from_sql(row.get(column).map_err(backend)?));
                    }
                    last = Some(page::encode_place(&place, &document.id));
                    page.documents.push(Versioned { document: document.body, revision: document.revision });
                }
                Ok(page)
            })
            .await
    }

    async fn claim_due(
        &self,
        collection: &'static str,
        now: SystemTime,
        until: SystemTime,
        limit: usize,
    ) -> Result<Vec<RawDocument>, StoreError> {
        self.inner
            .writer
            .run(move |connection, _| {
                let sql = format!(
                    "UPDATE doc_{collection} SET due = ?2, revision = revision + 1 WHERE id IN
                     (SELECT id FROM doc_{collection} WHERE due <= ?1 ORDER BY due LIMIT ?3)
                     RETURNING id, revision, body"
                );
                let mut statement = connection.prepare_cached(&sql).map_err(backend)?;
                let rows =
                    statement.query_map(params![micros(now), micros(until), length(limit)], raw).map_err(backend)?;
                rows.map(|row| row.map_err(backend)).collect()
            })
            .await
    }

    async fn put_many(
        &self,
        collection: &'static str,
        writes: Vec<(RawWrite, Option<Revision>)>,
    ) -> Vec<Result<Revision, StoreError>> {
        let parts = parts(writes, BACKGROUND_PART).map(|part| self.put_part(collection, part));
        join_all(parts).await.into_iter().flatten().collect()
    }

    async fn count_by(
        &self,
        kind: DocumentKind,
        index: &'static str,
        prefix: Option<String>,
    ) -> Result<Vec<(IndexValue, u64)>, StoreError> {
        let field = page::first_field(kind.collection, page::find_index(kind.collection, kind.indexes, index)?)?;
        let mut sql = if kind.counted.contains(&index) {
            format!("SELECT value, count FROM {} WHERE 1", tallies::table(kind.collection, field))
        } else {
            format!("SELECT f_{field} AS value, count(*) FROM doc_{} WHERE 1", kind.collection)
        };
        let mut bounds = Vec::new();
        if let Some(prefix) = prefix {
            sql.push_str(" AND value >= ? AND value < ?");
            bounds = vec![prefix.clone(), page::behind(&prefix)];
        }
        if !kind.counted.contains(&index) {
            sql.push_str(" GROUP BY 1");
        }
        sql.push_str(" ORDER BY 1");
        self.inner
            .readers
            .run_long(move |connection| {
                let mut statement = connection.prepare_cached(&sql).map_err(backend)?;
                let rows = statement
                    .query_map(params_from_iter(bounds), |row| Ok((from_sql(row.get(0)?), row.get::<_, i64>(1)?)))
                    .map_err(backend)?;
                rows.map(|row| {
                    let (value, count) = row.map_err(backend)?;
                    Ok((value, u64::try_from(count).unwrap_or_default()))
                })
                .collect()
            })
            .await
    }
}

impl SqliteStore {
    /// Writes documents in one go.
    async fn put_part(
        &self,
        collection: &'static str,
        writes: Vec<(RawWrite, Option<Revision>)>,
    ) -> Vec<Result<Revision, StoreError>> {
        let (count, counted) = (writes.len(), self.inner.counted.of(collection));
        let put_all = move |connection: &Connection, effects: &mut Effects| {
            let kept = Kept { collection, counted: &counted };
            let mut results = Vec::with_capacity(writes.len());
            for (write, expected) in writes {
                match put(connection, effects, &kept, write, expected) {
                    Err(error) if writer::is_broken(&error) => return Err(error),
                    result => results.push(result),
                }
            }
            Ok(results)
        };
        self.inner.writer.run_many(count, put_all).await.unwrap_or_else(|error| vec![Err(error); count])
    }
}

/// Where a document is kept, and which of its fields are counted.
pub(super) struct Kept<'a> {
    pub(super) collection: &'static str,
    pub(super) counted: &'a [&'static str],
}

pub(super) fn put(
    connection: &Connection,
    effects: &mut Effects,
    kept: &Kept<'_>,
    write: RawWrite,
    expected: Option<Revision>,
) -> Result<Revision, StoreError> {
    let id = write.id.clone();
    let written = match expected {
        None => insert(connection, effects, kept, write),
        Some(seen) => update(connection, effects, kept, write, seen),
    };
    let collection = kept.collection;
    written.map_err(backend)?.map(revision).ok_or(StoreError::RevisionMismatch { collection, id })
}

/// The revision of what was written. `None`: there is a document of this id.
fn insert(
    connection: &Connection,
    effects: &mut Effects,
    kept: &Kept<'_>,
    write: RawWrite,
) -> rusqlite::Result<Option<i64>> {
    let Kept { collection, counted } = *kept;
    // A revision begins at the time, so that a document that is made again does not come back to one that it had.
    let first = micros(SystemTime::now());
    let marks = ", ?".repeat(write.values.len());
    let mut values: Vec<Value> = vec![write.id.into(), first.into(), write.body.into(), write.due.map(micros).into()];
    let (mut names, mut news) = (String::new(), Vec::new());
    for (field, value) in write.values {
        names.push_str(&format!(", f_{field}"));
        if counted.contains(&field) {
            news.push((field, value.clone()));
        }
        values.push(to_sql(value));
    }
    let sql = format!(
        "INSERT INTO doc_{collection} (id, revision, body, due{names}) VALUES (?, ?, ?, ?{marks})
         ON CONFLICT DO NOTHING"
    );
    // Without RETURNING, for which SQLite makes a table each time.
    let written = connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    if written == 0 {
        return Ok(None);
    }
    for (field, value) in news {
        effects.tallies.add(collection, field, value, 1);
    }
    Ok(Some(first))
}

/// The revision of what was written. `None`: the document is at another one than was seen. Only fields that change are
/// written: each that is costs the place in its indexes.
fn update(
    connection: &Connection,
    effects: &mut Effects,
    kept: &Kept<'_>,
    write: RawWrite,
    seen: Revision,
) -> rusqlite::Result<Option<i64>> {
    let Kept { collection, counted } = *kept;
    let seen = i64::try_from(seen).unwrap_or(i64::MAX);
    let RawWrite { id, body, values: fields, due } = write;
    let names: String = fields.iter().map(|(field, _)| format!(", f_{field}")).collect();
    let sql = format!("SELECT due{names} FROM doc_{collection} WHERE id = ? AND revision = ?");
    let due: Value = due.map(micros).into();
    let mut sets = String::new();
    let mut values: Vec<Value> = vec![body.into()];
    let mut moved = Vec::new();
    let compare = |row: &rusqlite::Row<'_>| {
        if row.get_ref(0)? != ValueRef::from(&due) {
            sets.push_str(", due = ?");
            values.push(due);
        }
        for (column, (field, value)) in (1..).zip(fields) {
            let known = row.get_ref(column)?;
            let new = to_sql(value);
            if known == ValueRef::from(&new) {
                continue;
            }
            sets.push_str(", f_");
            sets.push_str(field);
            sets.push_str(" = ?");
            if counted.contains(&field) {
                moved.push((field, from_sql(row.get(column)?), from_sql(new.clone())));
            }
            values.push(new);
        }
        Ok(())
    };
    let found = connection.prepare_cached(&sql)?.query_row(params![id, seen], compare).optional()?;
    if found.is_none() {
        return Ok(None);
    }
    values.extend([id.into(), seen.into()]);
    let sql =
        format!("UPDATE doc_{collection} SET revision = revision + 1, body = ?{sets} WHERE id = ? AND revision = ?");
    let written = connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    if written == 0 {
        return Ok(None);
    }
    for (field, old, new) in moved {
        effects.tallies.add(collection, field, old, -1);
        effects.tallies.add(collection, field, new, 1);
    }
    Ok(Some(seen + 1))
}

fn page_statement(
    collection: &'static str,
    index: &'static Index,
    query: &PageQuery,
) -> Result<(String, Vec<Value>), StoreError> {
    let plan = page::plan(collection, index, query)?;
    let mut conditions = String::from("1");
    let mut values: Vec<Value> = Vec::new();
    for (field, value) in &plan.equal {
        conditions.push_str(&format!(" AND f_{field} = ?"));
        values.push(to_sql((*value).clone()));
    }
    if let Some(field) = plan.bounded {
        for (bound, operator) in [(&query.at_least, ">="), (&query.less_than, "<")] {
            if let Some(value) = bound {
                conditions.push_str(&format!(" AND f_{field} {operator} ?"));
                values.push(to_sql(value.clone()));
            }
        }
    }
    let direction = if query.descending { "DESC" } else { "ASC" };
    let columns: Vec<String> = plan.rest.iter().map(|field| format!("f_{field}")).collect();
    if let Some((place, id)) = plan.after {
        let operator = if query.descending { "<" } else { ">" };
        let row: String = columns.iter().map(|column| format!("{column}, ")).collect();
        conditions.push_str(&format!(" AND ({row}id) {operator} ({}?)", "?, ".repeat(place.len())));
        values.extend(place.into_iter().map(to_sql));
        values.push(id.into());
    }
    let selected: String = columns.iter().map(|column| format!(", {column}")).collect();
    let order: String = columns.iter().map(|column| format!("{column} {direction}, ")).collect();
    // One more than asked for tells whether there is a next page.
    values.push(Value::Integer(length(query.limit + 1)));
    Ok((
        format!(
            "SELECT id, revision, body{selected} FROM doc_{collection} WHERE {conditions}
             ORDER BY {order}id {direction} LIMIT ?"
        ),
        values,
    ))
}

fn raw(row: &rusqlite::Row<'_>) -> rusqlite::Result<RawDocument> {
    Ok(RawDocument { id: row.get(0)?, revision: revision(row.get(1)?), body: row.get::<_, Vec<u8>>(2)?.into() })
}

fn revision(number: i64) -> Revision {
    u64::try_from(number).unwrap_or_default()
}

pub(super) fn to_sql(value: IndexValue) -> Value {
    match value {
        IndexValue::Integer(number) => Value::Integer(number),
        IndexValue::Text(text) => Value::Text(text),
    }
}

fn from_sql(value: Value) -> IndexValue {
    match value {
        Value::Integer(number) => IndexValue::Integer(number),
        Value::Text(text) => IndexValue::Text(text),
        _ => IndexValue::Text(String::new()),
    }
}
