//! A document store that fails or waits when it is told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use runmesh_store::{
    DocumentKind, DocumentStore, Index, IndexValue, Page, PageQuery, RawDocument, RawWrite, Revision, StoreError,
};
use tokio::sync::Semaphore;

/// Hands everything on, but writes only as many documents as it is allowed to, and fails so many times before.
pub struct FailingDocuments {
    inner: Arc<dyn DocumentStore>,
    failures: AtomicUsize,
    allowed: Semaphore,
    asked: Semaphore,
}

impl FailingDocuments {
    /// A store whose next `failures` writes fail; those after wait to be allowed.
    pub fn new(inner: Arc<dyn DocumentStore>, failures: usize) -> Arc<Self> {
        Arc::new(Self {
            inner,
            failures: AtomicUsize::new(failures),
            allowed: Semaphore::new(0),
            asked: Semaphore::new(0),
        })
    }

    /// Allows further writes.
    pub fn allow(&self, writes: usize) {
        self.allowed.add_permits(writes);
    }

    /// Waits until somebody tries to write.
    pub async fn asked(&self) {
        super::within("a document is written", self.asked.acquire()).await.unwrap().forget();
    }
}

#[async_trait]
impl DocumentStore for FailingDocuments {
    async fn ensure_collection(&self, kind: DocumentKind) -> Result<(), StoreError> {
        self.inner.ensure_collection(kind).await
    }

    async fn get(&self, collection: &'static str, id: &str) -> Result<Option<RawDocument>, StoreError> {
        self.inner.get(collection, id).await
    }

    async fn put(
        &self,
        collection: &'static str,
        write: RawWrite,
        expected: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        self.asked.add_permits(1);
        let take = |left: usize| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Err(StoreError::Unavailable("told to fail".to_owned()));
        }
        self.allowed.acquire().await.unwrap().forget();
        self.inner.put(collection, write, expected).await
    }

    async fn delete(&self, collection: &'static str, id: &str, expected: Option<Revision>) -> Result<bool, StoreError> {
        self.inner.delete(collection, id, expected).await
    }

    async fn delete_some(&self, collection: &'static str, limit: usize) -> Result<usize, StoreError> {
        self.inner.delete_some(collection, limit).await
    }

    async fn page(
        &self,
        collection: &'static str,
        indexes: &'static [Index],
        query: PageQuery,
    ) -> Result<Page<Bytes>, StoreError> {
        self.inner.page(collection, indexes, query).await
    }

    async fn claim_due(
        &self,
        collection: &'static str,
        now: SystemTime,
        until: SystemTime,
        limit: usize,
    ) -> Result<Vec<RawDocument>, StoreError> {
        self.inner.claim_due(collection, now, until, limit).await
    }

    async fn count_by(
        &self,
        kind: DocumentKind,
        index: &'static str,
        prefix: Option<String>,
    ) -> Result<Vec<(IndexValue, u64)>, StoreError> {
        self.inner.count_by(kind, index, prefix).await
    }
}
