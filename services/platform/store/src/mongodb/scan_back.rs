//! Reading over all logs, against the order of positions.
//!
//! Some buckets are read by their first events, from the newest on. Where the last of them begins, others may go on that began
//! before it, within the span of a bucket: those are read too, and then nothing is missing from that place on.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};

use super::{
    Inner,
    bucket::{Bucket, Item, LOOK_BACK, mask},
    clock,
    delete::LogName,
    failure::{Attempts, Failure},
};
use crate::{Filter, Position, StoreError, Stored, record::integer};

/// How many buckets are read at a time, at least and at most.
const BUCKETS: (usize, usize) = (16, 512);

/// How many events a bucket holds that are wanted, about: most executions have fewer than fit into one.
const USUAL: usize = 8;

/// What is asked for.
struct Wanted {
    /// Conditions on buckets, without those on their positions.
    buckets: Document,
    /// The least position.
    least: i64,
    types: u64,
    limit: usize,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    /// From the newest on.
    items: Vec<(Item, LogName, bool)>,
    /// The place from which on nothing is missing.
    complete_from: i64,
}

impl Inner {
    /// Events before a position that match a filter, the newest first.
    pub(super) async fn scan_back(
        &self,
        filter: &Filter,
        before: Position,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut buckets = Document::new();
        if !filter.types.is_empty() {
            let types: Vec<i32> = filter.types.iter().map(|event_type| *event_type as i32).collect();
            buckets.insert("events.t", doc! { "$in": types });
        }
        if let Some(aggregate) = &filter.aggregate {
            buckets.insert("a", aggregate.as_str());
        }
        let end = integer(before.0).min(filter.until.map_or(i64::MAX, clock::least_at));
        let least = filter.from.map_or(0, clock::least_at);
        let wanted = Wanted { buckets, least, types: mask(&filter.types), limit };
        let mut attempts = Attempts::within(self.timeout);
        loop {
            match self.look_back(&wanted, end).await {
                Ok(found) => match self.all_of_logs(found).await? {
                    Some(items) => return items.iter().map(Item::stored).collect(),
                    None => attempts.renew(),
                },
                Err(Failure::Passing(why)) => attempts.again(why).await?,
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    async fn look_back(&self, wanted: &Wanted, end: i64) -> Result<Found, Failure> {
        let mut found = Found { items: Vec::new(), complete_from: end };
        loop {
            let missing = wanted.limit - found.items.len();
            let count = (missing / USUAL).clamp(BUCKETS.0, BUCKETS.1);
            self.step_back(wanted, count, &mut found).await?;
            if found.items.len() >= wanted.limit || found.complete_from <= wanted.least {
                found.trim(wanted.limit);
                return Ok(found);
            }
        }
    }

    /// Reads some more buckets, and what goes on beside them.
    async fn step_back(&self, wanted: &Wanted, count: usize, found: &mut Found) -> Result<(), Failure> {
        let end = found.complete_from;
        let newest = doc! { "first": { "$lt": end }, "last": { "$gte": wanted.least } };
        let limit = i64::try_from(count).unwrap_or(i64::MAX);
        let mut read: HashMap<(String, i64), Bucket> = HashMap::new();
        let mut first = i64::MIN;
        for bucket in self.buckets(wanted, newest, Some(limit)).await? {
            first = bucket.first;
            read.insert((bucket.aggregate.clone(), bucket.place.number), bucket);
        }
        // Where there are fewer buckets than asked for, they are all there are.
        let is_all = read.len() < count;
        let from = if is_all { wanted.least } else { first.max(wanted.least) };
        if !is_all {
            let beside = doc! {
                "first": { "$gte": from.saturating_sub(LOOK_BACK), "$lte": from },
                "last": { "$gte": from },
            };
            for bucket in self.buckets(wanted, beside, None).await? {
                read.entry((bucket.aggregate.clone(), bucket.place.number)).or_insert(bucket);
            }
        }
        found.add(read.into_values(), from..end, wanted.types);
        found.complete_from = from;
        Ok(())
    }

    async fn buckets(&self, wanted: &Wanted, places: Document, limit: Option<i64>) -> Result<Vec<Bucket>, Failure> {
        let mut filter = wanted.buckets.clone();
        filter.extend(places);
        let buckets = self.events.clone_with_type::<Bucket>();
        let mut find = buckets.find(filter).sort(doc! { "first": -1 });
        if let Some(limit) = limit {
            find = find.limit(limit);
        }
        let mut cursor = Attempts::within(self.timeout).step(find).await?;
        let mut found = Vec::new();
        while let Some(bucket) = Attempts::within(self.timeout).step(cursor.try_next()).await? {
            found.push(bucket);
        }
        Ok(found)
    }

    /// The events, unless some are left over from deleted logs: those are removed now, and it has to be looked again.
    async fn all_of_logs(&self, found: Found) -> Result<Option<Vec<Item>>, StoreError> {
        let behind = found.items.iter().filter(|(_, _, is_first)| !is_first);
        let names: HashSet<LogName> = behind.map(|(_, name, _)| name.clone()).collect();
        let deleted = self.deleted_of(names).await?;
        for name in &deleted {
            self.remove(name).await?;
        }
        Ok(deleted.is_empty().then(|| found.items.into_iter().map(|(item, _, _)| item).collect()))
    }
}

impl Found {
    fn add(&mut self, buckets: impl Iterator<Item = Bucket>, places: std::ops::Range<i64>, types: u64) {
        let start = self.items.len();
        for bucket in buckets {
            let name = LogName { aggregate: bucket.aggregate.as_str().into(), log: bucket.place.log };
            let is_first = bucket.place.number == 1;
            let wanted = bucket.events.into_iter().filter(|item| places.contains(&item.position) && item.is_of(types));
            self.items.extend(wanted.map(|item| (item, name.clone(), is_first)));
        }
        self.items[start..].sort_by_key(|(item, _, _)| std::cmp::Reverse(item.position));
    }

    /// Leaves as many as are wanted. Of events with one position it takes all or none.
    fn trim(&mut self, limit: usize) {
        let Some((last, _, _)) = limit.checked_sub(1).and_then(|index| self.items.get(index)) else { return };
        let last = last.position;
        let end = self.items.iter().skip(limit).take_while(|(item, _, _)| item.position == last).count();
        self.items.truncate(limit + end);
    }
}
