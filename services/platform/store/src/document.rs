//! Documents: state that is looked up by other things than its history.

use std::{
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Ahead, StoreError, give_way};

/// How often a document is changed anew while others write it too.
const TRIES: usize = 16;

/// How many documents are read at the same time.
const READS: usize = 16;

/// Which writing of a document it is. It grows with each write, also when the document is removed and made again, and so is
/// a fencing token too.
pub type Revision = u64;

/// An index of a collection: documents are paged in the order of its fields, and found by equality of a prefix of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// The name, unique in the collection.
    pub name: &'static str,
    /// The indexed fields, the most significant first. At most 4.
    pub fields: &'static [&'static str],
}

/// The value of an indexed field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexValue {
    /// A number, or a time in microseconds since 1970.
    Integer(i64),
    /// A text.
    Text(String),
}

impl From<&str> for IndexValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for IndexValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<SystemTime> for IndexValue {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::Integer(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A kind of document. Each kind is one collection.
pub trait Document: Sized + Send + Sync + 'static {
    /// The collection's name: lower case, digits and `_`.
    const COLLECTION: &'static str;
    /// The collection's indexes.
    const INDEXES: &'static [Index];
    /// The indexes, by their names, of which the number of documents for each value of the first field is kept all the
    /// time where the backend can do that with each write, so that counting costs nothing. One with no other field is there for
    /// that alone: such a backend makes no index of it, and documents are not to be paged by it.
    const COUNTED: &'static [&'static str] = &[];

    /// The document's id, unique in the collection.
    fn id(&self) -> String;

    /// The values of every field that an index names, by name.
    fn index_values(&self) -> Vec<(&'static str, IndexValue)>;

    /// When the document is next due to be claimed. `None`: never.
    fn due(&self) -> Option<SystemTime> {
        None
    }

    /// The document's bytes.
    fn encode(&self) -> Vec<u8>;

    /// The document that the bytes are of.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when they are of none.
    fn decode(bytes: &[u8]) -> Result<Self, StoreError>;
}

/// The bytes of a document that is kept as JSON.
pub fn to_json<T: Serialize>(document: &T) -> Vec<u8> {
    // Texts, numbers, flags and times always have a JSON form.
    serde_json::to_vec(document).unwrap_or_default()
}

/// The document that [`to_json`] made these bytes of; `what` it is, in words.
///
/// # Errors
/// [`StoreError::Corrupt`] when they are of none.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("{what}: {error}")))
}

/// A document with its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The document.
    pub document: T,
    /// Its revision.
    pub revision: Revision,
}

/// A document that was claimed: nobody else gets it until the lease is over, or the claim's holder writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<T> {
    /// The document.
    pub document: T,
    /// Its revision, the fencing token: a write that expects it succeeds only while the claim is in force.
    pub token: Revision,
}

/// What a page holds.
#[derive(Debug, Clone, Default)]
pub struct PageQuery {
    /// The index whose order the page has.
    pub index: &'static str,
    /// Values that the first fields of the index have to equal.
    pub equal: Vec<IndexValue>,
    /// The least value of the field after those.
    pub at_least: Option<IndexValue>,
    /// What the value of that field has to be less than.
    pub less_than: Option<IndexValue>,
    /// Whether the greatest come first.
    pub descending: bool,
    /// The greatest number of documents, 1 to 1,000.
    pub limit: usize,
    /// Where the page before ended. `None`: the first page.
    pub after: Option<String>,
}

/// A page of documents.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The documents.
    pub documents: Vec<Versioned<T>>,
    /// Gets the next page with the same query. `None`: there is none.
    pub next: Option<String>,
}

/// A document as a backend sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawDocument {
    /// The id.
    pub id: String,
    /// The revision.
    pub revision: Revision,
    /// The bytes.
    pub body: Bytes,
}

/// What a backend is given to write.
#[derive(Debug, Clone)]
pub struct RawWrite {
    /// The id.
    pub id: String,
    /// The bytes.
    pub body: Vec<u8>,
    /// The values of the indexed fields.
    pub values: Vec<(&'static str, IndexValue)>,
    /// When the document is next due.
    pub due: Option<SystemTime>,
}

/// What a backend has to know of a kind of documents.
#[derive(Debug, Clone, Copy)]
pub struct DocumentKind {
    /// The collection's name.
    pub collection: &'static str,
    /// Its indexes.
    pub indexes: &'static [Index],
    /// The names of those whose documents are counted all the time.
    pub counted: &'static [&'static str],
    /// How a document is written of which these are the bytes: for documents that are older than an index.
    pub rewrite: fn(&[u8]) -> Result<RawWrite, StoreError>,
}

impl DocumentKind {
    /// The kind of these documents.
    pub fn of<T: Document>() -> Self {
        Self {
            collection: T::COLLECTION,
            indexes: T::INDEXES,
            counted: T::COUNTED,
            rewrite: |bytes| Ok(RawWrite::of(&T::decode(bytes)?)),
        }
    }
}

impl RawWrite {
    fn of<T: Document>(document: &T) -> Self {
        Self { id: document.id(), body: document.encode(), values: document.index_values(), due: document.due() }
    }
}

/// Keeps documents. Services use its typed face, [`Documents`].
#[async_trait]
pub trait DocumentStore: Send + Sync + 'static {
    /// Makes a collection and its indexes where they are missing. Documents that lack a field of an index are given it.
    async fn ensure_collection(&self, kind: DocumentKind) -> Result<(), StoreError>;
    /// Reads one document.
    async fn get(&self, collection: &'static str, id: &str) -> Result<Option<RawDocument>, StoreError>;
    /// Reads many documents, each as [`DocumentStore::get`] does. In order.
    async fn get_many(
        &self,
        collection: &'static str,
        ids: Vec<String>,
    ) -> Result<Vec<Option<RawDocument>>, StoreError> {
        let reads = ids.into_iter().map(|id| async move { self.get(collection, &id).await });
        stream::iter(reads).buffered(READS).try_collect().await
    }
    /// Writes one document if it is at the expected revision (`None`: if there is none).
    async fn put(
        &self,
        collection: &'static str,
        write: RawWrite,
        expected: Option<Revision>,
    ) -> Result<Revision, StoreError>;
    /// Writes many documents, each by itself as [`DocumentStore::put`] does. A result for each, in order.
    async fn put_many(
        &self,
        collection: &'static str,
        writes: Vec<(RawWrite, Option<Revision>)>,
    ) -> Vec<Result<Revision, StoreError>> {
        join_all(writes.into_iter().map(|(write, expected)| self.put(collection, write, expected))).await
    }
    /// Removes one document if it is at the expected revision (`None`: whatever its revision). Returns whether there was one.
    async fn delete(&self, collection: &'static str, id: &str, expected: Option<Revision>) -> Result<bool, StoreError>;
    /// Removes at most `limit` documents, whichever. Returns how many; 0: there are none.
    async fn delete_some(&self, collection: &'static str, limit: usize) -> Result<usize, StoreError>;
    /// Reads a page.
    async fn page(
        &self,
        collection: &'static str,
        indexes: &'static [Index],
        query: PageQuery,
    ) -> Result<Page<Bytes>, StoreError>;
    /// Claims at most `limit` documents that are due at `now`: their due time becomes `until`, their revision grows.
    async fn claim_due(
        &self,
        collection: &'static str,
        now: SystemTime,
        until: SystemTime,
        limit: usize,
    ) -> Result<Vec<RawDocument>, StoreError>;
    /// The number of documents for each value of the index's first field; only for texts that begin with `prefix`, if it is
    /// given.
    async fn count_by(
        &self,
        kind: DocumentKind,
        index: &'static str,
        prefix: Option<String>,
    ) -> Result<Vec<(IndexValue, u64)>, StoreError>;
}

/// The documents of one kind.
pub struct Documents<T> {
    store: Arc<dyn DocumentStore>,
    collection: &'static str,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Documents<T> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), collection: self.collection, kind: PhantomData }
    }
}

impl<T> std::fmt::Debug for Documents<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("collection", &self.collection).finish_non_exhaustive()
    }
}

impl<T: Document> Documents<T> {
    /// The collection, made in the store where it is missing.
    ///
    /// # Errors
    /// When the store can't make it.
    pub async fn open(store: Arc<dyn DocumentStore>) -> Result<Self, StoreError> {
        Self::open_in(store, T::COLLECTION).await
    }

    /// The same in a collection of another name.
    pub(crate) async fn open_in(store: Arc<dyn DocumentStore>, collection: &'static str) -> Result<Self, StoreError> {
        let documents = Self { store, collection, kind: PhantomData };
        documents.store.ensure_collection(documents.kind()).await?;
        Ok(documents)
    }

    fn kind(&self) -> DocumentKind {
        DocumentKind { collection: self.collection, ..DocumentKind::of::<T>() }
    }

    fn read(raw: Option<RawDocument>) -> Result<Option<Versioned<T>>, StoreError> {
        raw.map(|raw| Ok(Versioned { document: T::decode(&raw.body)?, revision: raw.revision })).transpose()
    }

    /// One document by its id.
    ///
    /// # Errors
    /// When the store fails or holds what can't be read.
    pub async fn get(&self, id: &str) -> Result<Option<Versioned<T>>, StoreError> {
        Self::read(self.store.get(self.collection, id).await?)
    }

    /// Many documents by their ids, in order.
    ///
    /// # Errors
    /// As [`Documents::get`].
    pub async fn get_many(&self, ids: Vec<String>) -> Result<Vec<Option<Versioned<T>>>, StoreError> {
        let found = self.store.get_many(self.collection, ids).await?;
        let mut documents = Vec::with_capacity(found.len());
        for (number, raw) in found.into_iter().enumerate() {
            give_way(number).await;
            documents.push(Self::read(raw)?);
        }
        Ok(documents)
    }

    /// Writes a document if there is none with its id.
    ///
    /// # Errors
    /// [`StoreError::RevisionMismatch`] when there is one.
    pub async fn insert(&self, document: &T) -> Result<Revision, StoreError> {
        self.store.put(self.collection, RawWrite::of(document), None).await
    }

    /// A document that is written if there is none with its id, ahead of [events](crate::EventStore::append_behind) in the same
    /// store.
    pub fn ahead(&self, document: &T) -> Ahead {
        Ahead { collection: self.collection, write: RawWrite::of(document) }
    }

    /// Writes a document if it is at the revision that its writer saw.
    ///
    /// # Errors
    /// [`StoreError::RevisionMismatch`] when it is not.
    pub async fn update(&self, document: &T, seen: Revision) -> Result<Revision, StoreError> {
        self.store.put(self.collection, RawWrite::of(document), Some(seen)).await
    }

    /// Writes many documents, each if it is at the revision that its writer saw. A result for each, in order.
    pub async fn update_many(&self, documents: &[(T, Revision)]) -> Vec<Result<Revision, StoreError>> {
        let mut writes = Vec::with_capacity(documents.len());
        for (number, (document, seen)) in documents.iter().enumerate() {
            give_way(number).await;
            writes.push((RawWrite::of(document), Some(*seen)));
        }
        self.store.put_many(self.collection, writes).await
    }

    /// Writes what `change` makes of a document, or of there being none; anew when others write it meanwhile. Returns what
    /// was written. `None`: `change` makes nothing of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when others write it again and again.
    pub async fn change(&self, id: &str, change: impl Fn(Option<&T>) -> Option<T>) -> Result<Option<T>, StoreError> {
        for _ in 0..TRIES {
            let seen = self.get(id).await?;
            let Some(changed) = change(seen.as_ref().map(|seen| &seen.document)) else { return Ok(None) };
            let written = match &seen {
                Some(seen) => self.update(&changed, seen.revision).await,
                None => self.insert(&changed).await,
            };
            match written {
                Ok(_) => return Ok(Some(changed)),
                Err(StoreError::RevisionMismatch { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unavailable(format!("{id} of {} is written by others again and again", self.collection)))
    }

    /// Removes a document, whatever its revision. Returns whether there was one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, id: &str) -> Result<bool, StoreError> {
        self.store.delete(self.collection, id, None).await
    }

    /// Removes a document if it is at the revision that its remover saw. Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError::RevisionMismatch`] when it is at another.
    pub async fn delete_if(&self, id: &str, seen: Revision) -> Result<bool, StoreError> {
        self.store.delete(self.collection, id, Some(seen)).await
    }

    /// A page of documents.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the query names no index of the collection or its `after` is not a page's.
    pub async fn page(&self, query: PageQuery) -> Result<Page<T>, StoreError> {
        let page = self.store.page(self.collection, T::INDEXES, query).await?;
        let documents = page
            .documents
            .into_iter()
            .map(|raw| Ok(Versioned { document: T::decode(&raw.document)?, revision: raw.revision }))
            .collect::<Result<_, StoreError>>()?;
        Ok(Page { documents, next: page.next })
    }

    /// Claims at most `limit` documents that are due now. For the length of the lease nobody else gets them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn claim_due(&self, now: SystemTime, lease: Duration, limit: usize) -> Result<Vec<Claim<T>>, StoreError> {
        let raw = self.store.claim_due(self.collection, now, now + lease, limit).await?;
        raw.into_iter().map(|raw| Ok(Claim { document: T::decode(&raw.body)?, token: raw.revision })).collect()
    }

    /// The number of documents for each value of the index's first field, by value.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the collection has no such index.
    pub async fn count_by(&self, index: &'static str) -> Result<Vec<(IndexValue, u64)>, StoreError> {
        self.store.count_by(self.kind(), index, None).await
    }

    /// The same for those values of the first field that are texts and begin with `prefix`.
    ///
    /// # Errors
    /// As [`Documents::count_by`].
    pub async fn count_prefix(&self, index: &'static str, prefix: &str) -> Result<Vec<(IndexValue, u64)>, StoreError> {
        self.store.count_by(self.kind(), index, Some(prefix.to_owned())).await
    }
}
