//! Deleting a log, and what is left over when that was cut short.
//!
//! A log is gone as soon as its first bucket is. Buckets behind it that are still there, because whoever deleted the log
//! did not come to them or somebody added to one a moment too late, belong to no log: their log id is not that of the
//! first bucket, and never will be again. They are not shown, and removed when they are met.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use mongodb::bson::doc;
use runmesh_events::{AggregateId, EventId};

use super::{
    Inner,
    bucket::{Bucket, Id, LogId, Place, id_value, key, place_fields},
    failure::{Failure, repeat},
};
use crate::{StoreError, Stored};

/// How many first buckets are looked at at the same time.
const AT_ONCE: usize = 16;

/// A log of an aggregate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LogName {
    pub(super) aggregate: AggregateId,
    pub(super) log: LogId,
}

impl Inner {
    /// Removes all events of an aggregate.
    pub(super) async fn delete(&self, aggregate: &AggregateId) -> Result<(), StoreError> {
        let first = self.fetch::<Place>(aggregate, 1).await?;
        if let Some(first) = first {
            // By its log: another that was begun meanwhile is not the one that the caller meant.
            let filter = doc! { "_id": key(aggregate, 1), "log": first.log };
            repeat(self.timeout, || self.events.delete_one(filter.clone())).await?;
        }
        self.known.entry(aggregate).forget();
        self.live.deleted(aggregate);
        if first.is_none_or(|first| first.full) {
            self.sweep(aggregate).await?;
        }
        Ok(())
    }

    /// Removes what is left over of an aggregate's deleted logs.
    async fn sweep(&self, aggregate: &AggregateId) -> Result<(), Failure> {
        let buckets = self.events.clone_with_type::<Place>();
        let filter = doc! { "a": aggregate.as_str(), "n": { "$gt": 1 } };
        let found: Vec<Place> = repeat(self.timeout, || async {
            buckets.find(filter.clone()).projection(place_fields()).await?.try_collect().await
        })
        .await?;
        if found.is_empty() {
            return Ok(());
        }
        // Read after the others: a log that is there now is not one of those that were deleted before.
        let log = self.log_of(aggregate).await?;
        let mut gone: Vec<LogId> = found.iter().map(|place| place.log).filter(|found| Some(*found) != log).collect();
        gone.sort_unstable();
        gone.dedup();
        for log in gone {
            self.remove(&LogName { aggregate: aggregate.clone(), log }).await?;
        }
        Ok(())
    }

    /// Removes what is left over of a log that was deleted.
    pub(super) async fn remove(&self, left_over: &LogName) -> Result<(), Failure> {
        let LogName { aggregate, log } = left_over;
        tracing::debug!(%aggregate, "removes what is left over of a deleted log");
        let filter = doc! { "a": aggregate.as_str(), "log": *log, "n": { "$gt": 1 } };
        repeat(self.timeout, || self.events.delete_many(filter.clone())).await.map(drop)
    }

    /// Those of these logs, of which buckets behind the first were seen, that were deleted.
    pub(super) async fn deleted_of(&self, seen: impl IntoIterator<Item = LogName>) -> Result<Vec<LogName>, Failure> {
        stream::iter(seen)
            .map(|name| async move {
                let log = self.log_of(&name.aggregate).await?;
                Ok((log != Some(name.log)).then_some(name))
            })
            .buffer_unordered(AT_ONCE)
            .try_filter_map(|name| async move { Ok(name) })
            .try_collect()
            .await
    }

    /// The bucket that holds an event.
    pub(super) async fn holder(&self, id: &Id) -> Result<Option<Bucket>, Failure> {
        let buckets = self.events.clone_with_type::<Bucket>();
        loop {
            let filter = doc! { "events.i": id_value(id) };
            let Some(bucket) = repeat(self.timeout, || buckets.find_one(filter.clone())).await? else {
                return Ok(None);
            };
            let name = LogName { aggregate: bucket.aggregate.as_str().into(), log: bucket.place.log };
            if bucket.place.number == 1 || self.log_of(&name.aggregate).await? == Some(name.log) {
                return Ok(Some(bucket));
            }
            self.remove(&name).await?;
        }
    }

    /// One event by its id.
    pub(super) async fn find(&self, id: &EventId) -> Result<Option<Stored>, StoreError> {
        let Some(bucket) = self.holder(id.as_bytes()).await? else { return Ok(None) };
        bucket.events.iter().find(|item| item.id() == *id.as_bytes()).map(super::bucket::Item::stored).transpose()
    }
}
