//! The tables of a collection of documents: they are made, and brought to what its kind says now.

use std::collections::BTreeSet;

use rusqlite::{Connection, params_from_iter, types::Value};

use super::{backend, documents::to_sql};
use crate::{DocumentKind, Index, StoreError, page};

/// The name of the table that has the number of documents for each value of a field.
pub(super) fn counts(collection: &str, field: &str) -> String {
    format!("count_{collection}_{field}")
}

/// Makes what is missing. Documents that are older than a field of an index are given it.
pub(super) fn ensure(connection: &Connection, kind: DocumentKind) -> Result<(), StoreError> {
    let collection = kind.collection;
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS doc_{collection} (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, due INTEGER,
         body BLOB NOT NULL);
         CREATE INDEX IF NOT EXISTS doc_{collection}_due ON doc_{collection} (due) WHERE due IS NOT NULL;"
    );
    connection.execute_batch(&sql).map_err(backend)?;
    add_fields(connection, kind)?;
    let mut sql = String::new();
    for Index { name, fields } in kind.indexes {
        let fields: String = fields.iter().map(|field| format!("f_{field}, ")).collect();
        sql.push_str(&format!("CREATE INDEX IF NOT EXISTS doc_{collection}_{name} ON doc_{collection} ({fields}id);"));
    }
    connection.execute_batch(&sql).map_err(backend)?;
    for name in kind.counted {
        let field = page::first_field(collection, page::find_index(collection, kind.indexes, name)?)?;
        count(connection, collection, field)?;
    }
    Ok(())
}

/// Adds the columns of fields that are new, with the values that the documents have.
fn add_fields(connection: &Connection, kind: DocumentKind) -> Result<(), StoreError> {
    let collection = kind.collection;
    let mut known = BTreeSet::new();
    {
        let mut columns = connection.prepare(&format!("PRAGMA table_info(doc_{collection})")).map_err(backend)?;
        let names = columns.query_map([], |row| row.get::<_, String>("name")).map_err(backend)?;
        for name in names {
            known.insert(name.map_err(backend)?);
        }
    }
    let fields: BTreeSet<&str> = kind.indexes.iter().flat_map(|index| index.fields).copied().collect();
    let new: Vec<&str> = fields.into_iter().filter(|field| !known.contains(&format!("f_{field}"))).collect();
    if new.is_empty() {
        return Ok(());
    }
    for field in &new {
        connection.execute_batch(&format!("ALTER TABLE doc_{collection} ADD COLUMN f_{field}")).map_err(backend)?;
    }
    let sets: String = new.iter().map(|field| format!(", f_{field} = ?")).collect();
    let mut write =
        connection.prepare(&format!("UPDATE doc_{collection} SET body = body{sets} WHERE id = ?")).map_err(backend)?;
    let mut read = connection.prepare(&format!("SELECT id, body FROM doc_{collection}")).map_err(backend)?;
    let mut rows = read.query([]).map_err(backend)?;
    while let Some(row) = rows.next().map_err(backend)? {
        let (id, body): (String, Vec<u8>) = (row.get(0).map_err(backend)?, row.get(1).map_err(backend)?);
        let mut values = (kind.rewrite)(&body)?.values;
        let mut row: Vec<Value> = Vec::new();
        for field in &new {
            let place = values.iter().position(|(name, _)| name == field);
            row.push(place.map_or(Value::Null, |place| to_sql(values.swap_remove(place).1)));
        }
        row.push(id.into());
        write.execute(params_from_iter(row)).map_err(backend)?;
    }
    Ok(())
}

/// Has the documents counted with each write from now on: triggers are part of the write, so that the counts are exact.
fn count(connection: &Connection, collection: &str, field: &str) -> Result<(), StoreError> {
    let table = counts(collection, field);
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    let known: i64 = connection.query_row(sql, [&table], |row| row.get(0)).map_err(backend)?;
    if known > 0 {
        return Ok(());
    }
    let add = format!(
        "INSERT INTO {table} (value, count) VALUES (new.f_{field}, 1)
         ON CONFLICT (value) DO UPDATE SET count = count + 1;"
    );
    let take = format!(
        "UPDATE {table} SET count = count - 1 WHERE value = old.f_{field};
         DELETE FROM {table} WHERE value = old.f_{field} AND count <= 0;"
    );
    let sql = format!(
        "CREATE TABLE {table} (value PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
         INSERT INTO {table} SELECT f_{field}, count(*) FROM doc_{collection} GROUP BY 1;
         CREATE TRIGGER {table}_insert AFTER INSERT ON doc_{collection} BEGIN {add} END;
         CREATE TRIGGER {table}_delete AFTER DELETE ON doc_{collection} BEGIN {take} END;
         CREATE TRIGGER {table}_update AFTER UPDATE OF f_{field} ON doc_{collection}
         WHEN old.f_{field} IS NOT new.f_{field} BEGIN {take} {add} END;"
    );
    connection.execute_batch(&sql).map_err(backend)
}
