//! How many documents have each value of a counted field. Kept in the commit of the writes that change them, so that the
//! numbers are exact; of many changes of one number a commit writes the sum.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use rusqlite::{Connection, params, types::Value};

use super::{backend, documents::to_sql};
use crate::{IndexValue, StoreError};

/// The name of the table of a field.
pub(super) fn table(collection: &str, field: &str) -> String {
    format!("count_{collection}_{field}")
}

/// The counted fields of each collection.
#[derive(Debug, Default)]
pub(super) struct Counted(RwLock<HashMap<&'static str, Arc<[&'static str]>>>);

impl Counted {
    pub(super) fn set(&self, collection: &'static str, fields: Vec<&'static str>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(collection, fields.into());
    }

    pub(super) fn of(&self, collection: &str) -> Arc<[&'static str]> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(collection).cloned().unwrap_or_default()
    }
}

/// By how much numbers change in a commit.
#[derive(Debug, Default)]
pub(super) struct Tallies(BTreeMap<(&'static str, &'static str, IndexValue), i64>);

impl Tallies {
    /// One more document of the collection has this value of the field, or one fewer.
    pub(super) fn add(&mut self, collection: &'static str, field: &'static str, value: IndexValue, by: i64) {
        *self.0.entry((collection, field, value)).or_default() += by;
    }

    /// Writes them.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), StoreError> {
        for ((collection, field, value), by) in &self.0 {
            if *by == 0 {
                continue;
            }
            let (table, value): (_, Value) = (table(collection, field), to_sql(value.clone()));
            let add = format!(
                "INSERT INTO {table} (value, count) VALUES (?1, ?2) ON CONFLICT (value) DO UPDATE SET count = count + ?2"
            );
            connection.prepare_cached(&add).and_then(|mut s| s.execute(params![value, by])).map_err(backend)?;
            if *by < 0 {
                let none = format!("DELETE FROM {table} WHERE value = ?1 AND count <= 0");
                connection.prepare_cached(&none).and_then(|mut s| s.execute([value])).map_err(backend)?;
            }
        }
        Ok(())
    }
}
