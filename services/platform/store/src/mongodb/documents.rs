//! Documents in MongoDB: a collection for each kind, `{ _id, r: revision, w: number of the write, b: bytes, due, f: { … } }`.
//!
//! A revision begins at the time of the first write, in microseconds, and grows by one: a document that was removed and
//! made again does not come back to a revision that it had.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::{
    Collection, IndexModel,
    bson::{Binary, Bson, Document, doc, spec::BinarySubtype},
};
use rand::seq::SliceRandom as _;
use serde::Deserialize;
use tokio::time::timeout_at;

use super::{
    EVENTS, Inner, MongoStore,
    failure::{Attempts, Failure, repeat},
    index,
};
use crate::{
    DocumentKind, DocumentStore, Index, IndexValue, Page, PageQuery, RawDocument, RawWrite, Revision, StoreError, page,
    record::{integer, micros},
};

/// How many bytes a document may have: the database's limit is 16 MiB, with its other fields.
const BYTES: usize = 15 << 20;

/// How many documents at a time are given fields that they lack.
const REWRITES: i64 = 256;

/// How many claims one call has on their way.
const CLAIMS: usize = 16;

/// From how many times as many documents claims are drawn where others claim at the same time, so that not all try the same.
const SPREAD: usize = 8;

/// A document as it is kept, without the fields of its indexes.
#[derive(Debug, Deserialize)]
pub(super) struct Kept {
    #[serde(rename = "_id")]
    pub(super) id: String,
    #[serde(rename = "r")]
    pub(super) revision: i64,
    /// A random number that tells one write from another.
    #[serde(rename = "w")]
    write: i64,
    #[serde(rename = "b")]
    pub(super) body: Bytes,
}

impl From<Kept> for RawDocument {
    fn from(kept: Kept) -> Self {
        Self { id: kept.id, revision: revision(kept.revision), body: kept.body }
    }
}

/// The fields of [`Kept`].
pub(super) fn kept_fields() -> Document {
    doc! { "r": 1, "w": 1, "b": 1 }
}

/// The state of a document.
#[derive(Debug, Deserialize)]
struct State {
    #[serde(rename = "r")]
    revision: i64,
    #[serde(rename = "w")]
    write: i64,
}

#[derive(Debug, Deserialize)]
struct Count {
    #[serde(rename = "_id")]
    value: Bson,
    count: Bson,
}

#[async_trait]
impl DocumentStore for MongoStore {
    async fn ensure_collection(&self, kind: DocumentKind) -> Result<(), StoreError> {
        let DocumentKind { collection, indexes, .. } = kind;
        if collection == EVENTS {
            return Err(StoreError::Invalid(format!("{EVENTS} is the collection of events, and of no documents")));
        }
        let keys = |fields: &[&str]| {
            let mut keys: Document = fields.iter().map(|field| (format!("f.{field}"), Bson::Int32(1))).collect();
            keys.insert("_id", 1);
            keys
        };
        let mut models: Vec<IndexModel> =
            indexes.iter().map(|declared| index(declared.name, keys(declared.fields), false)).collect();
        models.push(index("due", doc! { "due": 1 }, false));
        self.inner.ensure_indexes(&self.inner.database.collection(collection), models).await?;
        self.inner.add_fields(kind).await
    }

    async fn get(&self, collection: &'static str, id: &str) -> Result<Option<RawDocument>, StoreError> {
        let documents = self.inner.database.collection::<Kept>(collection);
        let found = repeat(self.inner.timeout, || documents.find_one(doc! { "_id": id }).projection(kept_fields()));
        Ok(found.await?.map(RawDocument::from))
    }

    async fn put(
        &self,
        collection: &'static str,
        write: RawWrite,
        expected: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        self.inner.put(collection, write, expected).await
    }

    async fn delete(&self, collection: &'static str, id: &str, expected: Option<Revision>) -> Result<bool, StoreError> {
        let documents = self.inner.database.collection::<State>(collection);
        let mut filter = doc! { "_id": id };
        if let Some(expected) = expected {
            filter.insert("r", integer(expected));
        }
        let mut attempts = Attempts::within(self.inner.timeout);
        let mut may_be_done = false;
        loop {
            match attempts.step(documents.delete_one(filter.clone())).await {
                Ok(result) if result.deleted_count > 0 => return Ok(true),
                Ok(_) => break,
                Err(Failure::Passing(why)) => attempts.again(why).await?,
                Err(failure) => return Err(failure.into()),
            }
            may_be_done = true;
        }
        let is_there = expected.is_some()
            && repeat(self.inner.timeout, || documents.find_one(doc! { "_id": id })).await?.is_some();
        if is_there {
            return Err(StoreError::RevisionMismatch { collection, id: id.to_owned() });
        }
        // A try without an answer is what removed it, most likely.
        Ok(may_be_done)
    }

    async fn delete_some(&self, collection: &'static str, limit: usize) -> Result<usize, StoreError> {
        let documents = self.inner.database.collection::<Document>(collection);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found: Vec<Document> = repeat(self.inner.timeout, || async {
            documents.find(doc! {}).projection(doc! { "_id": 1 }).limit(limit).await?.try_collect().await
        })
        .await?;
        let ids: Vec<Bson> = found.into_iter().filter_map(|mut found| found.remove("_id")).collect();
        let these = doc! { "_id": { "$in": &ids } };
        repeat(self.inner.timeout, || documents.delete_many(these.clone())).await?;
        Ok(ids.len())
    }

    async fn page(
        &self,
        collection: &'static str,
        indexes: &'static [Index],
        query: PageQuery,
    ) -> Result<Page<Bytes>, StoreError> {
        let index = page::find_index(collection, indexes, query.index)?;
        self.inner.page_of(collection, index, &query).await
    }

    async fn claim_due(
        &self,
        collection: &'static str,
        now: SystemTime,
        until: SystemTime,
        limit: usize,
    ) -> Result<Vec<RawDocument>, StoreError> {
        let documents = self.inner.database.collection::<Kept>(collection);
        let mut claims = Vec::new();
        let mut is_contended = false;
        while claims.len() < limit {
            let wanted = limit - claims.len();
            let most = if is_contended { wanted.saturating_mul(SPREAD) } else { wanted };
            let mut due: Vec<Kept> = repeat(self.inner.timeout, || async {
                let find = documents.find(doc! { "due": { "$lte": micros(now) } }).projection(kept_fields());
                let find = find.sort(doc! { "due": 1 }).limit(i64::try_from(most).unwrap_or(i64::MAX));
                find.await?.try_collect().await
            })
            .await?;
            let found = due.len();
            if is_contended {
                due.shuffle(&mut rand::rng());
                due.truncate(wanted);
            }
            let claim = |kept| self.inner.claim(&documents, kept, until);
            let claimed: Vec<Option<RawDocument>> =
                stream::iter(due.into_iter().map(claim)).buffered(CLAIMS).try_collect().await?;
            is_contended = claimed.contains(&None);
            claims.extend(claimed.into_iter().flatten());
            if found < wanted || !is_contended {
                break;
            }
        }
        Ok(claims)
    }

    async fn count_by(
        &self,
        kind: DocumentKind,
        index: &'static str,
        prefix: Option<String>,
    ) -> Result<Vec<(IndexValue, u64)>, StoreError> {
        let field = page::first_field(kind.collection, page::find_index(kind.collection, kind.indexes, index)?)?;
        let documents = self.inner.database.collection::<Document>(kind.collection);
        let mut pipeline = vec![doc! { "$group": { "_id": format!("$f.{field}"), "count": { "$sum": 1 } } }];
        if let Some(prefix) = prefix {
            let range = doc! { "$gte": &prefix, "$lt": page::behind(&prefix) };
            pipeline.insert(0, doc! { "$match": { format!("f.{field}"): range } });
        }
        let counts: Vec<Count> = repeat(self.inner.timeout, || async {
            documents.aggregate(pipeline.clone()).with_type::<Count>().await?.try_collect().await
        })
        .await?;
        let mut counts: Vec<(IndexValue, u64)> =
            counts.into_iter().map(|count| (from_bson(count.value), number(&count.count))).collect();
        counts.sort_unstable();
        Ok(counts)
    }
}

/// What a write came to.
enum Put {
    Done(Revision),
    Refused,
}

impl Inner {
    /// Gives documents the fields that they lack because they are older than an index.
    async fn add_fields(&self, kind: DocumentKind) -> Result<(), StoreError> {
        let documents = self.database.collection::<Kept>(kind.collection);
        for field in kind.indexes.iter().flat_map(|index| index.fields) {
            let name = format!("f.{field}");
            loop {
                let lacking = doc! { &name: { "$exists": false } };
                let old: Vec<Kept> = repeat(self.timeout, || async {
                    let find = documents.find(lacking.clone()).projection(kept_fields()).limit(REWRITES);
                    find.await?.try_collect().await
                })
                .await?;
                if old.is_empty() {
                    break;
                }
                for kept in old {
                    let values = (kind.rewrite)(&kept.body)?.values;
                    let fields: Document =
                        values.iter().map(|(field, value)| (format!("f.{field}"), to_bson(value))).collect();
                    if !fields.contains_key(&name) {
                        return Err(StoreError::Invalid(format!("documents of {} have no {field}", kind.collection)));
                    }
                    let seen = doc! { "_id": &kept.id, "r": kept.revision };
                    let change = doc! { "$set": fields };
                    // One that was written meanwhile has them.
                    repeat(self.timeout, || documents.update_one(seen.clone(), change.clone())).await?;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn put(
        &self,
        collection: &'static str,
        write: RawWrite,
        expected: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        if write.body.len() > BYTES {
            return Err(StoreError::Invalid(format!(
                "document {collection}/{} has {} bytes; at most {BYTES} can be stored",
                write.id,
                write.body.len()
            )));
        }
        let documents = self.database.collection::<Document>(collection);
        let next = expected.map_or_else(|| self.clock.tick(), |seen| integer(seen).saturating_add(1));
        let mark = rand::random::<i64>();
        let document = document(&write, next, mark);
        let mut attempts = Attempts::within(self.timeout);
        let mut may_be_done = false;
        loop {
            let try_put = async {
                if may_be_done
                    && let Some(state) = self.state(&documents, &write.id).await?
                    && (state.revision, state.write) == (next, mark)
                {
                    return Ok(Put::Done(revision(next)));
                }
                put(&documents, &attempts, &write.id, &document, expected, next).await
            };
            let result = timeout_at(attempts.deadline(), try_put)
                .await
                .unwrap_or_else(|_| Err(Failure::Passing("no answer in time".to_owned())));
            match result {
                Ok(Put::Done(revision)) => return Ok(revision),
                Ok(Put::Refused) if !may_be_done => {
                    return Err(StoreError::RevisionMismatch { collection, id: write.id });
                }
                Ok(Put::Refused) => {
                    // The try before may have come through after it was asked for.
                    return match self.state(&documents, &write.id).await? {
                        Some(state) if (state.revision, state.write) == (next, mark) => Ok(revision(next)),
                        _ => Err(StoreError::RevisionMismatch { collection, id: write.id }),
                    };
                }
                Err(Failure::Passing(why)) => attempts.again(why).await?,
                Err(failure) => return Err(failure.into()),
            }
            may_be_done = true;
        }
    }

    async fn state(&self, documents: &Collection<Document>, id: &str) -> Result<Option<State>, Failure> {
        let states = documents.clone_with_type::<State>();
        repeat(self.timeout, || states.find_one(doc! { "_id": id }).projection(doc! { "r": 1, "w": 1 })).await
    }

    /// Claims a document that was seen to be due. `None`: another was faster.
    async fn claim(
        &self,
        documents: &Collection<Kept>,
        kept: Kept,
        until: SystemTime,
    ) -> Result<Option<RawDocument>, StoreError> {
        let next = kept.revision.saturating_add(1);
        let mark = rand::random::<i64>();
        let seen = doc! { "_id": &kept.id, "r": kept.revision, "w": kept.write };
        let change = doc! { "$set": { "due": micros(until), "r": next, "w": mark } };
        let mut attempts = Attempts::within(self.timeout);
        let mut may_be_done = false;
        loop {
            match attempts.step(documents.update_one(seen.clone(), change.clone())).await {
                Ok(result) if result.matched_count > 0 => break,
                Ok(_) if may_be_done => {
                    let state = self.state(&documents.clone_with_type(), &kept.id).await?;
                    if state.is_some_and(|state| (state.revision, state.write) == (next, mark)) {
                        break;
                    }
                    return Ok(None);
                }
                Ok(_) => return Ok(None),
                Err(Failure::Passing(why)) => attempts.again(why).await?,
                Err(failure) => return Err(failure.into()),
            }
            may_be_done = true;
        }
        Ok(Some(Kept { revision: next, write: mark, ..kept }.into()))
    }
}

async fn put(
    documents: &Collection<Document>,
    attempts: &Attempts,
    id: &str,
    document: &Document,
    expected: Option<Revision>,
    next: i64,
) -> Result<Put, Failure> {
    let done = match expected {
        None => match attempts.step(documents.insert_one(document)).await {
            Ok(_) => true,
            Err(Failure::Duplicate { .. }) => false,
            Err(failure) => return Err(failure),
        },
        Some(seen) => {
            let filter = doc! { "_id": id, "r": integer(seen) };
            attempts.step(documents.replace_one(filter, document)).await?.matched_count > 0
        }
    };
    Ok(if done { Put::Done(revision(next)) } else { Put::Refused })
}

fn document(write: &RawWrite, revision: i64, mark: i64) -> Document {
    let fields: Document = write.values.iter().map(|(field, value)| ((*field).to_owned(), to_bson(value))).collect();
    let body = Binary { subtype: BinarySubtype::Generic, bytes: write.body.clone() };
    let mut document = doc! { "_id": &write.id, "r": revision, "w": mark, "b": body, "f": fields };
    if let Some(due) = write.due {
        document.insert("due", micros(due));
    }
    document
}

fn revision(number: i64) -> Revision {
    u64::try_from(number).unwrap_or_default()
}

pub(super) fn to_bson(value: &IndexValue) -> Bson {
    match value {
        IndexValue::Integer(number) => Bson::Int64(*number),
        IndexValue::Text(text) => Bson::String(text.clone()),
    }
}

pub(super) fn from_bson(value: Bson) -> IndexValue {
    match value {
        Bson::Int64(number) => IndexValue::Integer(number),
        Bson::Int32(number) => IndexValue::Integer(number.into()),
        Bson::String(text) => IndexValue::Text(text),
        _ => IndexValue::Text(String::new()),
    }
}

/// A count, which a server may give as any kind of number.
fn number(value: &Bson) -> u64 {
    let number = match value {
        Bson::Int32(number) => i64::from(*number),
        Bson::Int64(number) => *number,
        Bson::Double(number) => *number as i64,
        _ => 0,
    };
    u64::try_from(number).unwrap_or_default()
}
