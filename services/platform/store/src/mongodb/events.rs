//! The event store in MongoDB.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::bson::{Document, doc};
use runmesh_events::{AggregateId, Event, EventId, EventType, NewEvent};

use super::{MongoStore, bucket::key, failure::repeat};
use crate::{
    Appended, EventStore, Expected, Filter, LiveEvents, Position, StoreError, Stored, Unpublished,
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
        if crate::mongodb::failure::mutant("12") {
            return inner.append(&aggregate, expected, &events).await;
        }
        // In a task of its own: what was begun is finished and told of, also when the caller goes away.
        tokio::spawn(async move { inner.append(&aggregate, expected, &events).await })
            .await
            .map_err(|error| StoreError::Backend(format!("an append did not end: {error}")))?
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
            let mut of_buckets: BTreeMap<Option<i64>, Vec<i64>> = BTreeMap::new();
            for Stored { position, event } in events {
                of_buckets.entry(entry.bucket_of(event.sequence)).or_default().push(integer(position.0));
            }
            for (number, positions) in of_buckets {
                // A position is never given again, so this touches no event but these, wherever they are.
                let filter = match number {
                    Some(number) => doc! { "_id": key(&aggregate, number) },
                    None if crate::mongodb::failure::mutant("18") => doc! { "_id": key(&aggregate, 1) },
                    None => doc! { "a": aggregate.as_str(), "pending": { "$in": positions.clone() } },
                };
                marks.push((filter, positions));
            }
        }
        stream::iter(marks)
            .map(|(filter, positions)| async move {
                let update = doc! { "$pullAll": { "pending": positions } };
                let done = repeat(inner.timeout, || inner.events.update_many(filter.clone(), update.clone())).await;
                done.map(drop).map_err(StoreError::from)
            })
            .buffer_unordered(MARKS)
            .try_collect()
            .await
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
