//! Reading a log: its buckets, its head, and the place where it grows.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream, try_join};
use mongodb::bson::{Document, doc};
use runmesh_events::{AggregateId, Event, EventType};
use serde::de::DeserializeOwned;

use super::{
    Inner,
    bucket::{self, Bucket, Id, Ids, LogId, Place, Tail, id_value, ids_fields, place_fields, tail_fields},
    failure::{Failure, repeat},
    known::{Earlier, Entry, IDS, Start},
};
use crate::{StoreError, record::integer};

/// How many buckets a read asks for at the same time.
const AHEAD: usize = 8;

/// How far a search looks at the same time, once it has looked at the next bucket, which is the last one of most logs that
/// have several.
const LEAPS: [i64; 4] = [1, 2, 4, 8];

/// How many times farther it looks next.
const FARTHER: i64 = 16;

/// Up to how many buckets are read by their ids, where a query finds them too.
const FEW: i64 = 8;

/// How many events a bucket has at least, mostly, when there is one behind it.
const USUAL: usize = 32;

/// Where a read begins.
enum Begin {
    /// At this bucket.
    At(Box<Bucket>),
    /// There is nothing to read.
    Nowhere,
    /// What was known of the log is of another one.
    Anew,
}

/// What has the place of a bucket in it.
pub(super) trait Placed: DeserializeOwned + Send + Sync {
    /// The place.
    fn place(&self) -> Place;
    /// The fields that have to be read. `None`: all.
    fn fields() -> Option<Document>;
}

impl Placed for Place {
    fn place(&self) -> Place {
        *self
    }

    fn fields() -> Option<Document> {
        Some(place_fields())
    }
}

impl Placed for Tail {
    fn place(&self) -> Place {
        self.place
    }

    fn fields() -> Option<Document> {
        Some(tail_fields())
    }
}

impl Placed for Ids {
    fn place(&self) -> Place {
        self.place
    }

    fn fields() -> Option<Document> {
        Some(ids_fields())
    }
}

impl Placed for Bucket {
    fn place(&self) -> Place {
        self.place
    }

    fn fields() -> Option<Document> {
        None
    }
}

impl Inner {
    /// One bucket by its number, of whatever log.
    pub(super) async fn fetch<T: Placed>(&self, aggregate: &AggregateId, number: i64) -> Result<Option<T>, Failure> {
        let buckets = self.events.clone_with_type::<T>();
        let find = || {
            let find = buckets.find_one(doc! { "_id": bucket::key(aggregate, number) });
            match T::fields() {
                Some(fields) => find.projection(fields),
                None => find,
            }
        };
        repeat(self.timeout, find).await
    }

    /// The buckets of a log before a number, in order.
    async fn fetch_before<T: Placed>(&self, aggregate: &AggregateId, log: LogId, end: i64) -> Result<Vec<T>, Failure> {
        let fetches = stream::iter(1..end).map(|number| self.fetch::<T>(aggregate, number));
        let found: Vec<Option<T>> = fetches.buffered(AHEAD).try_collect().await?;
        Ok(found.into_iter().flatten().filter(|bucket| bucket.place().log == log).collect())
    }

    /// The last bucket of a log for which something holds, beginning at one for which it does; behind one for which it
    /// does not it holds for none. Buckets are numbered without a gap, so that it is found in a few steps by ids alone,
    /// which any server looks up without reading anything else.
    pub(super) async fn last_that<T: Placed>(
        &self,
        aggregate: &AggregateId,
        from: T,
        holds: impl Fn(Place) -> bool,
    ) -> Result<T, Failure> {
        let (mut last, mut step, mut end) = (from, 0, i64::MAX);
        loop {
            let at = last.place();
            if !at.full || at.number + 1 >= end {
                return Ok(last);
            }
            let offsets = match end {
                i64::MAX if step == 0 => vec![1],
                i64::MAX => LEAPS.map(|leap| leap * step).to_vec(),
                end => vec![(end - at.number) / 2],
            };
            let fetches = offsets.iter().map(|offset| self.fetch::<T>(aggregate, at.number + offset));
            for (offset, found) in offsets.iter().zip(try_join_all(fetches).await?) {
                match found.filter(|found| found.place().log == at.log && holds(found.place())) {
                    Some(found) => last = found,
                    None => {
                        end = at.number + offset;
                        break;
                    }
                }
            }
            step = (step * FARTHER).max(1);
        }
    }

    /// The log that the aggregate has now. Whatever bucket has another log is left over from one that was deleted.
    pub(super) async fn log_of(&self, aggregate: &AggregateId) -> Result<Option<LogId>, Failure> {
        Ok(self.fetch::<Place>(aggregate, 1).await?.map(|place| place.log))
    }

    /// The last bucket of an aggregate's log. `None`: it has no events.
    pub(super) async fn last<T: Placed>(&self, aggregate: &AggregateId, entry: &Entry) -> Result<Option<T>, Failure> {
        loop {
            let newest = entry.newest().filter(|(_, number)| *number > 1);
            let (first, known) = match newest {
                None => (self.fetch::<T>(aggregate, 1).await?, None),
                Some((_, number)) => try_join!(self.fetch::<T>(aggregate, 1), self.fetch::<T>(aggregate, number))?,
            };
            let Some(first) = first else {
                entry.forget();
                return Ok(None);
            };
            let place = first.place();
            entry.learn(place, None);
            if !place.full {
                return Ok(Some(first));
            }
            let last = match (newest, known) {
                (Some((log, _)), Some(known)) if log == place.log && known.place().log == log => known,
                // The first bucket is there and one behind it is not any more: the log is being deleted.
                (Some((log, _)), _) if log == place.log => {
                    entry.forget();
                    continue;
                }
                _ => first,
            };
            let last = self.last_that(aggregate, last, |_| true).await?;
            entry.learn(last.place(), None);
            return Ok(Some(last));
        }
    }

    /// The place of the bucket that holds an event. `None`: the aggregate has no events.
    pub(super) async fn place_of(&self, aggregate: &AggregateId, sequence: u64) -> Result<Option<Place>, Failure> {
        let Some(first) = self.fetch::<Place>(aggregate, 1).await? else { return Ok(None) };
        self.last_that(aggregate, first, |place| place.from <= integer(sequence)).await.map(Some)
    }

    /// The ids of the events before a tail, as far as they can be kept.
    pub(super) async fn earlier(
        &self,
        aggregate: &AggregateId,
        entry: &Entry,
        tail: &Tail,
    ) -> Result<Earlier, Failure> {
        let place = tail.place;
        match entry.earlier() {
            Earlier::Unknown => {}
            known => return Ok(known),
        }
        if usize::try_from(place.from - 1).is_ok_and(|count| count > IDS) {
            entry.learn_earlier(place.log, place.number, Earlier::TooMany);
            return Ok(Earlier::TooMany);
        }
        let found: Vec<Ids> = if place.number <= FEW {
            self.fetch_before(aggregate, place.log, place.number).await?
        } else {
            let filter = doc! { "a": aggregate.as_str(), "log": place.log, "n": { "$lt": place.number } };
            let buckets = self.events.clone_with_type::<Ids>();
            repeat(self.timeout, || async {
                buckets.find(filter.clone()).projection(ids_fields()).await?.try_collect().await
            })
            .await?
        };
        let ids: HashSet<Id> = found.iter().flat_map(Ids::iter).collect();
        for bucket in &found {
            entry.learn(bucket.place, None);
        }
        if ids.len() as i64 != place.from - 1 {
            // Some are gone already: the log is being deleted.
            return Err(Failure::Passing(format!("the log of aggregate {aggregate} changes while it is read")));
        }
        let earlier = Earlier::All(Arc::new(ids));
        entry.learn_earlier(place.log, place.number, earlier.clone());
        Ok(earlier)
    }

    /// The buckets up to a tail that have some of these ids; maybe others too.
    pub(super) async fn find_ids(
        &self,
        aggregate: &AggregateId,
        tail: Place,
        ids: &HashSet<Id>,
    ) -> Result<Vec<Bucket>, Failure> {
        let log = tail.log;
        if tail.number <= FEW {
            return self.fetch_before(aggregate, log, tail.number + 1).await;
        }
        let ids: Vec<_> = ids.iter().map(id_value).collect();
        let filter = doc! { "a": aggregate.as_str(), "log": log, "events.i": { "$in": ids } };
        let buckets = self.events.clone_with_type::<Bucket>();
        repeat(self.timeout, || async { buckets.find(filter.clone()).await?.try_collect().await }).await
    }

    /// The newest sequence of an aggregate.
    pub(super) async fn head(&self, aggregate: &AggregateId) -> Result<u64, StoreError> {
        let entry = self.known.entry(aggregate);
        let last = self.last::<Place>(aggregate, &entry).await?;
        Ok(last.map_or(0, |place| u64::try_from(place.seq).unwrap_or_default()))
    }

    /// At most `limit` events of these types after a sequence.
    pub(super) async fn read(
        &self,
        aggregate: &AggregateId,
        after: u64,
        limit: usize,
        types: &[EventType],
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let entry = self.known.entry(aggregate);
        let types = bucket::mask(types);
        loop {
            let start = entry.start(after, types);
            match self.begin(aggregate, &entry, after, start).await? {
                Begin::At(first) => return self.go_on(aggregate, &entry, *first, after, limit, types).await,
                Begin::Nowhere => return Ok(Vec::new()),
                // The aggregate was deleted, and maybe made again, since this process knew it.
                Begin::Anew => entry.forget(),
            }
        }
    }

    /// Finds the bucket at which a read begins.
    async fn begin(
        &self,
        aggregate: &AggregateId,
        entry: &Entry,
        after: u64,
        start: Start,
    ) -> Result<Begin, StoreError> {
        let at = |bucket: Option<Bucket>| bucket.map_or(Begin::Nowhere, |bucket| Begin::At(Box::new(bucket)));
        if let Some(log) = start.log {
            let (bucket, first) =
                try_join!(self.fetch::<Bucket>(aggregate, start.number), self.fetch::<Place>(aggregate, 1))?;
            return Ok(match first {
                Some(first) if first.log == log => at(bucket.filter(|bucket| bucket.place.log == log)),
                _ => Begin::Anew,
            });
        }
        let first = self.fetch::<Bucket>(aggregate, 1).await?;
        match &first {
            Some(Bucket { place, .. }) if place.full && place.seq <= integer(after) => {
                let (log, behind) = (place.log, integer(after));
                let last = self.last_that(aggregate, *place, |place| place.seq <= behind).await?;
                entry.learn(last, None);
                let next = self.fetch::<Bucket>(aggregate, last.number + 1).await?;
                Ok(at(next.filter(|bucket| bucket.place.log == log)))
            }
            _ => Ok(at(first)),
        }
    }

    /// Reads from a bucket on.
    async fn go_on(
        &self,
        aggregate: &AggregateId,
        entry: &Entry,
        first: Bucket,
        after: u64,
        limit: usize,
        types: u64,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let log = first.place.log;
        let mut events = Vec::new();
        let mut before = first.place;
        take(&mut events, entry, &first, after, limit, types)?;
        if !before.full || events.len() == limit {
            return Ok(events);
        }
        let numbers = stream::iter(before.number + 1..).filter(|number| {
            let wanted = entry.skip(log, *number, types) == *number;
            async move { wanted }
        });
        let ahead = ((limit - events.len()) / USUAL).clamp(1, AHEAD);
        let mut buckets = Box::pin(numbers.map(|number| self.fetch::<Bucket>(aggregate, number)).buffered(ahead));
        while let Some(bucket) = buckets.next().await {
            let Some(bucket) = bucket?.filter(|bucket| bucket.place.log == log) else { break };
            let place = bucket.place;
            if place.number == before.number + 1 && place.from != before.seq + 1 {
                return Err(StoreError::Corrupt(format!(
                    "bucket {} of aggregate {aggregate} begins at sequence {}, after {}",
                    place.number, place.from, before.seq
                )));
            }
            take(&mut events, entry, &bucket, after, limit, types)?;
            if !place.full || events.len() == limit {
                break;
            }
            before = place;
        }
        Ok(events)
    }
}

/// Takes the events of a bucket that are wanted.
fn take(
    events: &mut Vec<Arc<Event>>,
    entry: &Entry,
    bucket: &Bucket,
    after: u64,
    limit: usize,
    types: u64,
) -> Result<(), StoreError> {
    entry.learn(bucket.place, Some(bucket.types()));
    for item in bucket.after(after).iter().filter(|item| item.is_of(types)) {
        if events.len() == limit {
            break;
        }
        events.push(item.event()?);
    }
    Ok(())
}
