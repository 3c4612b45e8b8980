//! The tables of a collection of documents: they are made, and brought to what its kind says now.

use std::collections::BTreeSet;

use rusqlite::{Connection, params_from_iter, types::Value};

use super::{backend, documents::to_sql, tallies::table};
use crate::{DocumentKind, Index, StoreError, page};

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
    let mut old = indexes(connection, collection)?;
    old.remove(&format!("doc_{collection}_due"));
    let mut sql = String::new();
    for Index { name, fields } in kind.indexes {
        if fields.len() == 1 && kind.counted.contains(name) {
            // It is there for the counting, which needs no index.
            continue;
        }
        let index = format!("doc_{collection}_{name}");
        let fields: String = fields.iter().map(|field| format!("f_{field}, ")).collect();
        sql.push_str(&format!("CREATE INDEX IF NOT EXISTS {index} ON doc_{collection} ({fields}id);"));
        old.remove(&index);
    }
    // Nothing is found by these any more, and every write costs a change of them.
    sql.extend(old.iter().map(|index| format!("DROP INDEX {index};")));
    connection.execute_batch(&sql).map_err(backend)?;
    for field in counted(kind)? {
        count(connection, collection, field)?;
    }
    Ok(())
}

/// The names of the indexes that were made for a collection.
fn indexes(connection: &Connection, collection: &str) -> Result<BTreeSet<String>, StoreError> {
    let sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL";
    let mut statement = connection.prepare(sql).map_err(backend)?;
    let names = statement.query_map([format!("doc_{collection}")], |row| row.get(0)).map_err(backend)?;
    names.collect::<rusqlite::Result<_>>().map_err(backend)
}

/// The fields of a kind that are counted.
pub(super) fn counted(kind: DocumentKind) -> Result<Vec<&'static str>, StoreError> {
    let field =
        |name: &&str| page::first_field(kind.collection, page::find_index(kind.collection, kind.indexes, name)?);
    kind.counted.iter().map(field).collect()
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

/// Counts the documents that are there by a field, where they were not counted so far. From then on writes do it.
fn count(connection: &Connection, collection: &str, field: &str) -> Result<(), StoreError> {
    let table = table(collection, field);
    // They did it before the writer itself did.
    let triggers: String =
        ["insert", "delete", "update"].iter().map(|on| format!("DROP TRIGGER IF EXISTS {table}_{on};")).collect();
    connection.execute_batch(&triggers).map_err(backend)?;
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    let known: i64 = connection.query_row(sql, [&table], |row| row.get(0)).map_err(backend)?;
    if known > 0 {
        return Ok(());
    }
    let sql = format!(
        "CREATE TABLE {table} (value PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
         INSERT INTO {table} SELECT f_{field}, count(*) FROM doc_{collection} GROUP BY 1;"
    );
    connection.execute_batch(&sql).map_err(backend)
}
