//! Reading over all logs, in the order of positions.
//!
//! Buckets come in the order of their first events. What lies before the first event of the next bucket is in order: no
//! bucket that is yet to come holds anything before it. Since a bucket spans a minute at most, those that may hold what
//! comes after a position are found by their first events too.

use std::collections::{BTreeMap, HashSet};

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};

use super::{
    Inner,
    bucket::{Bucket, Item, LOOK_BACK},
    clock,
    delete::LogName,
    failure::{Attempts, Failure},
};
use crate::{Filter, Position, StoreError, Stored, Unpublished, record::integer};

/// How many events more than the limit are kept while buckets are merged: room for some with one position.
const SLACK: usize = 64;

/// How many buckets are read for a page of unpublished events at first, for each event.
const BUCKETS: usize = 2;

/// How many buckets the server sends at a time, at most.
const BATCH: u32 = 128;

/// Events in the order of their positions.
struct Merge {
    limit: usize,
    /// By position, and among equal ones by the order in which they came.
    waiting: BTreeMap<(i64, usize), (Item, Option<usize>)>,
    ready: Vec<(Item, Option<usize>)>,
    /// The logs of which buckets behind the first were seen.
    logs: Vec<LogName>,
    count: usize,
}

impl Merge {
    fn new(limit: usize) -> Self {
        Self { limit, waiting: BTreeMap::new(), ready: Vec::new(), logs: Vec::new(), count: 0 }
    }

    /// Moves what lies before a position to what is ready, up to the limit. Of events with one position it takes all or
    /// none. Returns whether that is enough.
    fn advance(&mut self, before: i64) -> bool {
        while let Some(entry) = self.waiting.first_entry() {
            let position = entry.key().0;
            let is_equal = self.ready.last().is_some_and(|(last, _)| last.position == position);
            if position >= before || (self.ready.len() >= self.limit && !is_equal) {
                break;
            }
            self.ready.push(entry.remove());
        }
        self.ready.len() >= self.limit
    }

    /// Adds a bucket's events that are wanted.
    fn add(&mut self, bucket: Bucket, is_wanted: impl Fn(&Item) -> bool) {
        let log = (bucket.place.number > 1).then(|| {
            self.logs.push(LogName { aggregate: bucket.aggregate.as_str().into(), log: bucket.place.log });
            self.logs.len() - 1
        });
        for item in bucket.events.into_iter().filter(is_wanted) {
            self.count += 1;
            self.waiting.insert((item.position, self.count), (item, log));
        }
        // What is beyond the limit already can't come before it again.
        let room = self.limit.saturating_sub(self.ready.len()).saturating_add(SLACK);
        while self.waiting.len() > room {
            self.waiting.pop_last();
        }
    }
}

/// Which buckets and which of their events a page is of.
struct Selection {
    buckets: Document,
    /// The least position, and what positions have to be less than.
    positions: (i64, i64),
    types: u64,
    pending: bool,
}

impl Selection {
    fn wants(&self, item: &Item, pending: Option<&HashSet<i64>>) -> bool {
        let (least, end) = self.positions;
        item.position >= least
            && item.position < end
            && item.is_of(self.types)
            && pending.is_none_or(|pending| pending.contains(&item.position))
    }
}

impl Inner {
    /// Events after a position that match a filter.
    pub(super) async fn scan(&self, filter: &Filter, after: Position, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let from = filter.from.map_or(0, clock::least_at);
        let least = from.max(integer(after.0).saturating_add(1));
        let end = filter.until.map_or(i64::MAX, clock::least_at);
        let mut buckets = doc! {
            "first": { "$gte": least.saturating_sub(LOOK_BACK), "$lt": end },
            "last": { "$gte": least },
        };
        if !filter.types.is_empty() {
            let types: Vec<i32> = filter.types.iter().map(|event_type| *event_type as i32).collect();
            buckets.insert("events.t", doc! { "$in": types });
        }
        if let Some(aggregate) = &filter.aggregate {
            buckets.insert("a", aggregate.as_str());
        }
        let types = super::bucket::mask(&filter.types);
        let selection = Selection { buckets, positions: (least, end), types, pending: false };
        let items = self.page(&selection, limit).await?;
        items.iter().map(Item::stored).collect()
    }

    /// Events after a position that are not marked as published.
    pub(super) async fn unpublished(&self, after: Position, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        let least = integer(after.0).saturating_add(1);
        let buckets = doc! {
            "pending": { "$gte": least },
            "first": { "$gte": least.saturating_sub(LOOK_BACK) },
        };
        let selection = Selection { buckets, positions: (least, i64::MAX), types: 0, pending: true };
        let items = self.page(&selection, limit).await?;
        items.into_iter().map(|item| Ok(Unpublished { stored: item.stored()?, publisher: item.publisher })).collect()
    }

    async fn page(&self, selection: &Selection, limit: usize) -> Result<Vec<Item>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut attempts = Attempts::within(self.timeout);
        loop {
            match self.merge(selection, limit).await {
                Ok(merge) => match self.without_deleted(merge).await? {
                    Some(items) => return Ok(items),
                    None => attempts.renew(),
                },
                Err(Failure::Passing(why)) => attempts.again(why).await?,
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Merges the buckets of a page. Each answer of the server may take as long as a call; there are many.
    async fn merge(&self, selection: &Selection, limit: usize) -> Result<Merge, Failure> {
        let buckets = self.events.clone_with_type::<Bucket>();
        // What is pending is found by an index that is not in the order of the page. The server sorts it, so it is told how
        // much of it is wanted; where that was too little, more.
        let mut most = selection.pending.then(|| limit.saturating_mul(BUCKETS).max(SLACK));
        loop {
            let batch = u32::try_from(limit).unwrap_or(u32::MAX).clamp(2, BATCH);
            let mut find = buckets.find(selection.buckets.clone()).sort(doc! { "first": 1 }).batch_size(batch);
            if let Some(most) = most {
                find = find.limit(i64::try_from(most).unwrap_or(i64::MAX));
            }
            let mut found = Attempts::within(self.timeout).step(find).await?;
            let (mut merge, mut count) = (Merge::new(limit), 0);
            while let Some(bucket) = Attempts::within(self.timeout).step(found.try_next()).await? {
                if merge.advance(bucket.first) {
                    return Ok(merge);
                }
                count += 1;
                let pending = selection.pending.then(|| bucket.pending.iter().copied().collect::<HashSet<i64>>());
                merge.add(bucket, |item| selection.wants(item, pending.as_ref()));
            }
            match most {
                Some(read) if count >= read => most = Some(read.saturating_mul(4)),
                _ => {
                    merge.advance(i64::MAX);
                    return Ok(merge);
                }
            }
        }
    }

    /// The events of a page. `None`: some are left over from deleted logs; those are removed now, and the page has to be
    /// read again.
    async fn without_deleted(&self, merge: Merge) -> Result<Option<Vec<Item>>, StoreError> {
        let shown: HashSet<usize> = merge.ready.iter().filter_map(|(_, log)| *log).collect();
        let names: HashSet<LogName> = shown.into_iter().map(|index| merge.logs[index].clone()).collect();
        let deleted = self.deleted_of(names).await?;
        for name in &deleted {
            self.remove(name).await?;
        }
        Ok(deleted.is_empty().then(|| merge.ready.into_iter().map(|(item, _)| item).collect()))
    }
}
