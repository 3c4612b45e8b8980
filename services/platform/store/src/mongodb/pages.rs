//! Pages of documents in the order of an index.

use bytes::Bytes;
use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;

use super::{
    Inner,
    documents::{Kept, from_bson, kept_fields, to_bson},
    failure::repeat,
};
use crate::{Index, IndexValue, Page, PageQuery, RawDocument, StoreError, Versioned, page};

/// A document with the fields that its place in an index consists of.
#[derive(Debug, Deserialize)]
struct Found {
    #[serde(flatten)]
    kept: Kept,
    #[serde(rename = "f", default)]
    fields: Document,
}

impl Inner {
    /// A page of a collection's documents.
    pub(super) async fn page_of(
        &self,
        collection: &'static str,
        index: &'static Index,
        query: &PageQuery,
    ) -> Result<Page<Bytes>, StoreError> {
        let plan = page::plan(collection, index, query)?;
        let (filter, sort) = (filter(&plan, query), sort(&plan, query));
        let mut fields = kept_fields();
        for field in plan.rest {
            fields.insert(format!("f.{field}"), 1);
        }
        let documents = self.database.collection::<Found>(collection);
        // One more than asked for tells whether there is a next page.
        let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
        let mut found: Vec<Found> = repeat(self.timeout, || async {
            let find = documents.find(filter.clone()).sort(sort.clone()).limit(limit).projection(fields.clone());
            find.await?.try_collect().await
        })
        .await?;
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let place = |found: &Found| {
            let value =
                |field: &&str| found.fields.get(field).cloned().map_or_else(|| from_bson(Bson::Null), from_bson);
            let values: Vec<IndexValue> = plan.rest.iter().map(value).collect();
            page::encode_place(&values, &found.kept.id)
        };
        let next = found.last().filter(|_| more).map(place);
        let documents = found
            .into_iter()
            .map(|found| {
                let raw = RawDocument::from(found.kept);
                Versioned { document: raw.body, revision: raw.revision }
            })
            .collect();
        Ok(Page { documents, next })
    }
}

fn name(field: &str) -> String {
    format!("f.{field}")
}

fn filter(plan: &page::Plan<'_>, query: &PageQuery) -> Document {
    let mut filter: Document = plan.equal.iter().map(|(field, value)| (name(field), to_bson(value))).collect();
    if let Some(field) = plan.bounded {
        let mut bounds = Document::new();
        for (operator, bound) in [("$gte", &query.at_least), ("$lt", &query.less_than)] {
            if let Some(bound) = bound {
                bounds.insert(operator, to_bson(bound));
            }
        }
        filter.insert(name(field), bounds);
    }
    if let Some((values, id)) = &plan.after {
        filter.insert("$or", behind(plan.rest, values, id, query.descending));
    }
    filter
}

/// The conditions of which one holds for what is behind a place: the first fields equal, the one after them beyond.
fn behind(fields: &[&str], values: &[IndexValue], id: &str, descending: bool) -> Vec<Document> {
    let beyond = if descending { "$lt" } else { "$gt" };
    let mut place: Vec<(String, Bson)> =
        fields.iter().zip(values).map(|(field, value)| (name(field), to_bson(value))).collect();
    place.push(("_id".to_owned(), id.into()));
    (0..place.len())
        .map(|index| {
            let mut condition: Document = place[..index].iter().cloned().collect();
            let (field, value) = &place[index];
            condition.insert(field, doc! { beyond: value.clone() });
            condition
        })
        .collect()
}

fn sort(plan: &page::Plan<'_>, query: &PageQuery) -> Document {
    let direction = if query.descending { -1 } else { 1 };
    let mut sort: Document = plan.rest.iter().map(|field| (name(field), Bson::Int32(direction))).collect();
    sort.insert("_id", direction);
    sort
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_place_is_equal_up_to_a_field_and_beyond_it() {
        let values = [IndexValue::from("ann"), IndexValue::from(3)];
        let conditions = behind(&["owner", "priority"], &values, "id", true);
        let expected = [
            doc! { "f.owner": { "$lt": "ann" } },
            doc! { "f.owner": "ann", "f.priority": { "$lt": 3_i64 } },
            doc! { "f.owner": "ann", "f.priority": 3_i64, "_id": { "$lt": "id" } },
        ];
        assert_eq!(conditions, expected);
    }
}
