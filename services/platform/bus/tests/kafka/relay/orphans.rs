//! What processes leave behind in a store that others write to.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use runmesh_bus::{
    KafkaBus, Relay,
    conformance::{TOPIC, until, within},
};
use runmesh_events::{AggregateId, Event, EventId, EventType, NewEvent, Payload};
use runmesh_store::{
    Ahead, Appended, Behind, EventStore, Expected, Filter, Leases, LiveEvents, Position, SqliteStore, StoreError,
    Stored, Unpublished,
};
use tokio_util::sync::CancellationToken;

use super::{append, event, open};
use crate::brokers::Clean;

/// Who appends an event between any two looks, and does not publish it.
const BUSY: &str = "busy";

/// A store that never stands still: before each look at what is unpublished, one more event is appended. Who appends to an
/// aggregate has its name.
struct Busy {
    inner: SqliteStore,
}

/// While others append, the looking for what processes leave behind does not run after them: it sees a process that goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_append_meanwhile_does_not_keep_it_from_looking_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, store) = (Clean::broker().await, open(folder.path()));
    let bus = Arc::new(KafkaBus::open(broker.config()).unwrap());
    append(&store, "gone", vec![event(TOPIC, "gone", "1")]).await;
    append(&store, BUSY, vec![event(TOPIC, BUSY, "1")]).await;
    let leases = async |holder: &str| Leases::open(Arc::new(store.clone()), holder).await.unwrap();
    // Long enough for the first look to find it held.
    let held = leases(BUSY).await.acquire("publisher/busy", Duration::from_secs(4)).await.unwrap().unwrap();
    let busy = Arc::new(Busy { inner: store.clone() });
    let relay = Relay::new(busy, bus, Arc::new(store.clone())).await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn({
        let (leases, shutdown) = (leases("relay").await, shutdown.clone());
        async move { relay.run_orphans(leases, shutdown).await }
    });
    let is_left = async |aggregate: &str| {
        let page = store.unpublished(Position(0), 10_000).await.unwrap();
        page.iter().any(|one| one.stored.event.aggregate_id == aggregate && one.stored.event.sequence == 1)
    };
    until("what one left that was gone before is published", async || !is_left("gone").await).await;
    assert!(held.is_in_force() && is_left(BUSY).await, "published for one that is there");
    until("what one left that is gone now is published", async || !is_left(BUSY).await).await;
    shutdown.cancel();
    within("it ends", task).await.unwrap();
}

#[async_trait]
impl EventStore for Busy {
    async fn unpublished(&self, after: Position, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        append(&self.inner, BUSY, vec![event(TOPIC, BUSY, "more")]).await;
        let page = self.inner.unpublished(after, limit).await?;
        let named = |one: Unpublished| Unpublished { publisher: one.stored.event.aggregate_id.clone(), ..one };
        Ok(page.into_iter().map(named).collect())
    }

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
        true
    }
}
