//! The event store in MongoDB.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::bson::{Document, doc};
use runmesh_events::{AggregateId, Event, EventId, EventType, NewEvent, Payload};

use super::{
    MongoStore,
    bucket::{Place, key},
    failure::repeat,
};
use crate::{
    Ahead, Appended, Behind, EventStore, Expected, Filter, LiveEvents, Position, StoreError, Stored, Unpublished,
    record::{check_append, integer},
};

/// How many buckets are marked at the same time.
const MARKS: usize = 16;

#[async_trait]
impl EventStore for MongoStore {
    async fn append(
        &self,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        check_append(aggregate, &events)?;
        let (inner, aggregate) = (Arc::clone(&self.inner), aggregate.clone());
        // In a task of its own: what was begun is finished and told of, also when the caller goes away.
        tokio::spawn(async move { inner.append(&aggregate, expected, &events).await })
            .await
            .map_err(|error| StoreError::Backend(format!("an append did not end: {error}")))?
    }

    async fn append_behind(
        &self,
        document: Ahead,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Behind, StoreError> {
        check_append(aggregate, &events)?;
        let revision = self.inner.put(document.collection, document.write, None).await?;
        Ok(Behind { revision, appended: self.append(aggregate, expected, events).await })
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
        self.inner.find(id).await
    }

    /// There is no counter over all logs: a position is a time and an event's place in its log. Events of other processes
    /// that are on their way, or come from a clock that is behind, may appear before the place that a scan has reached. Who
    /// must not miss any scans up to a few seconds ago ([`Filter::until`]), or looks again later.
    async fn scan(&self, filter: &Filter, after: Position, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.inner.scan(filter, after, limit).await
    }

    async fn newest(&self) -> Result<Position, StoreError> {
        let position = self.inner.clock.positions(1, 0).at(0);
        Ok(Position(u64::try_from(position).unwrap_or_default()))
    }

    /// As with [`scan`](EventStore::scan), events may appear behind the place that was reached.
    async fn scan_back(&self, filter: &Filter, before: Position, limit: usize) -> Result<Vec<Stored>, StoreError> {
        self.inner.scan_back(filter, before, limit).await
    }

    /// As with [`scan`](EventStore::scan), events may appear before a place that was reached: look from the start again.
    async fn unpublished(&self, after: Position, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        self.inner.unpublished(after, limit).await
    }

    async fn mark_published(&self, events: &[Stored]) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let mut of_aggregates: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
        for stored in events {
            of_aggregates.entry(&stored.event.aggregate_id).or_default().push(stored);
        }
        let mut marks: Vec<(Document, Vec<i64>)> = Vec::new();
        for (aggregate, events) in of_aggregates {
            let aggregate = AggregateId::from(aggregate);
            let entry = inner.known.entry(&aggregate);
            let mut of_buckets: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
            let mut found: Option<Place> = None;
            for Stored { position, event } in events {
                let mut number = entry.bucket_of(event.sequence);
                if number.is_none() {
                    if found.is_none_or(|place| !place.holds(event.sequence)) {
                        found = inner.place_of(&aggregate, event.sequence).await?;
                    }
                    number = found.map(|place| place.number);
                }
                // `None`: its log is deleted.
                if let Some(number) = number {
                    of_buckets.entry(number).or_default().push(integer(position.0));
                }
            }
            // A position is never given again, so this touches no event but these.
            marks.extend(
                of_buckets.into_iter().map(|(number, positions)| (doc! { "_id": key(&aggregate, number) }, positions)),
            );
        }
        stream::iter(marks)
            .map(|(filter, positions)| async move {
                let update = doc! { "$pullAll": { "pending": positions } };
                let done = repeat(inner.timeout, || inner.events.update_one(filter.clone(), update.clone())).await;
                done.map(drop).map_err(StoreError::from)
            })
            .buffer_unordered(MARKS)
            .try_collect()
            .await
    }

    async fn replace_payload(&self, id: &EventId, payload: Payload) -> Result<Option<Stored>, StoreError> {
        self.inner.replace_payload(id, payload).await
    }

    async fn delete_aggregate(&self, aggregate: &AggregateId) -> Result<(), StoreError> {
        let (inner, aggregate) = (Arc::clone(&self.inner), aggregate.clone());
        tokio::spawn(async move { inner.delete(&aggregate).await })
            .await
            .map_err(|error| StoreError::Backend(format!("a deletion did not end: {error}")))?
    }

    fn live(&self) -> &LiveEvents {
        &self.inner.live
    }

    fn is_shared(&self) -> bool {
        true
    }
}
