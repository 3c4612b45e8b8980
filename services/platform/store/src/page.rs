//! Pages of documents: what a query means, and the tokens that name a place, for every backend.

use crate::{Index, IndexValue, PageQuery, StoreError};

/// The index of a collection that has this name.
pub(crate) fn find_index(
    collection: &str,
    indexes: &'static [Index],
    name: &str,
) -> Result<&'static Index, StoreError> {
    indexes
        .iter()
        .find(|index| index.name == name)
        .ok_or_else(|| StoreError::Invalid(format!("collection {collection} has no index {name:?}")))
}

/// The first field of an index.
pub(crate) fn first_field(collection: &str, index: &'static Index) -> Result<&'static str, StoreError> {
    index
        .fields
        .first()
        .copied()
        .ok_or_else(|| StoreError::Invalid(format!("index {collection}.{} has no fields", index.name)))
}

/// What a query asks for.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Fields that have to equal these values.
    pub(crate) equal: Vec<(&'static str, &'a IndexValue)>,
    /// The fields behind them, in the order of the page.
    pub(crate) rest: &'static [&'static str],
    /// The field with bounds, where there are some: the first of the rest.
    pub(crate) bounded: Option<&'static str>,
    /// Where the page before ended: the values of the rest, and the id.
    pub(crate) after: Option<(Vec<IndexValue>, String)>,
}

/// Checks a query and takes it apart.
pub(crate) fn plan<'a>(collection: &str, index: &'static Index, query: &'a PageQuery) -> Result<Plan<'a>, StoreError> {
    let invalid = |what: &str| StoreError::Invalid(format!("page of {collection}: {what}"));
    if query.equal.len() > index.fields.len() {
        return Err(invalid("more values than the index has fields"));
    }
    if query.limit == 0 || query.limit > 1_000 {
        return Err(invalid("the limit has to be from 1 to 1,000"));
    }
    let (fixed, rest) = index.fields.split_at(query.equal.len());
    let has_bounds = query.at_least.is_some() || query.less_than.is_some();
    if has_bounds && rest.is_empty() {
        return Err(invalid("a bound needs a field behind the equal ones"));
    }
    let after = match &query.after {
        None => None,
        Some(after) => Some(decode_place(after, rest.len()).ok_or_else(|| invalid("`after` is not a page's"))?),
    };
    Ok(Plan {
        equal: fixed.iter().copied().zip(&query.equal).collect(),
        rest,
        bounded: rest.first().copied().filter(|_| has_bounds),
        after,
    })
}

/// What is greater than every text that begins with this one, and no greater than any other that is.
pub(crate) fn behind(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

/// The place of a document in an index, as text: the values of the fields, then the id.
pub(crate) fn encode_place(values: &[IndexValue], id: &str) -> String {
    let mut place: Vec<serde_json::Value> = values
        .iter()
        .map(|value| match value {
            IndexValue::Integer(number) => (*number).into(),
            IndexValue::Text(text) => text.as_str().into(),
        })
        .collect();
    place.push(id.into());
    serde_json::Value::Array(place).to_string()
}

fn decode_place(text: &str, fields: usize) -> Option<(Vec<IndexValue>, String)> {
    let mut values: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
    let id = values.pop()?.as_str()?.to_owned();
    if values.len() != fields {
        return None;
    }
    let values = values
        .into_iter()
        .map(|value| match value {
            serde_json::Value::String(text) => Some(IndexValue::Text(text)),
            serde_json::Value::Number(number) => number.as_i64().map(IndexValue::Integer),
            _ => None,
        })
        .collect::<Option<_>>()?;
    Some((values, id))
}
