//! A log that fails when it is told to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use runmesh_events::{AggregateId, Event, EventId, EventType, NewEvent, Payload};
use runmesh_store::{
    Ahead, Appended, Behind, EventStore, Expected, Filter, LiveEvents, Position, SqliteStore, StoreError, Stored,
    Unpublished,
};

/// Hands everything on, but fails so many of the calls that append to many logs, beginning with the second.
pub(crate) struct FlakyEvents {
    inner: SqliteStore,
    failures: Arc<AtomicUsize>,
    calls: AtomicUsize,
}

impl FlakyEvents {
    pub(crate) fn new(inner: SqliteStore, failures: Arc<AtomicUsize>) -> Self {
        Self { inner, failures, calls: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl EventStore for FlakyEvents {
    async fn append(
        &self,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        self.inner.append(aggregate, expected, events).await
    }

    async fn append_behind(
        &self,
        document: Ahead,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Behind, StoreError> {
        self.inner.append_behind(document, aggregate, expected, events).await
    }

    async fn append_each(&self, appends: Vec<(AggregateId, Vec<NewEvent>)>) -> Vec<Result<Appended, StoreError>> {
        let is_first = self.calls.fetch_add(1, Ordering::SeqCst) == 0;
        let take = |left: usize| left.checked_sub(1);
        if !is_first && self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            let fail = || Err(StoreError::Unavailable("told to fail".to_owned()));
            return appends.iter().map(|_| fail()).collect();
        }
        self.inner.append_each(appends).await
    }

    async fn read(
        &self,
        aggregate: &AggregateId,
        after: u64,
        limit: usize,
        types: &[EventType],
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        self.inner.read(aggregate, after, limit, types).await
    }

    async fn head(&self, aggregate: &AggregateId) -> Result<u64, StoreError> {
        self.inner.head(aggregate).await
    }

    async fn get(&self, id: &EventId) -> Result<Option<Stored>, StoreError> {
        EventStore::get(&self.inner, id).await
    }

    async fn scan(&self, filter: &Filter, after: Position, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.inner.scan(filter, after, limit).await
    }

    async fn newest(&self) -> Result<Position, StoreError> {
        self.inner.newest().await
    }

    async fn scan_back(&self, filter: &Filter, before: Position, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.inner.scan_back(filter, before, limit).await
    }

    async fn unpublished(&self, after: Position, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        self.inner.unpublished(after, limit).await
    }

    async fn mark_published(&self, events: &[Stored]) -> Result<(), StoreError> {
        self.inner.mark_published(events).await
    }

    async fn replace_payload(&self, id: &EventId, payload: Payload) -> Result<Option<Stored>, StoreError> {
        self.inner.replace_payload(id, payload).await
    }

    async fn delete_aggregate(&self, aggregate: &AggregateId) -> Result<(), StoreError> {
        self.inner.delete_aggregate(aggregate).await
    }

    fn live(&self) -> &LiveEvents {
        self.inner.live()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
}
