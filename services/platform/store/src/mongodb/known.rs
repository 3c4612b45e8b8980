//! What this process knows of aggregates, so that most calls need one round trip.
//!
//! All of it is either true for as long as the aggregate lives (a full bucket stays as it is, an id stays in use) or only
//! a guess that the database checks (the bucket at which the log grows). An aggregate that was deleted and made again has
//! another log id; whatever is known of the log before is forgotten when that is noticed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use runmesh_events::AggregateId;

use super::bucket::{Id, LogId, Place, Tail};

/// How many aggregates are known.
const AGGREGATES: usize = 8_192;

/// How many bytes are spent on that, about.
const BYTES: usize = 32 << 20;

/// How many ids of one log's full buckets are known. Those of a longer log are looked up in the database.
pub(super) const IDS: usize = 4_096;

/// What one aggregate takes beside its parts, about.
const OVERHEAD: usize = 512;

/// The aggregates that this process used last.
#[derive(Debug)]
pub(super) struct Known {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// With the weight that was last counted for each.
    aggregates: LruCache<AggregateId, (Arc<Entry>, usize)>,
    bytes: usize,
}

/// An aggregate.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Held while this process appends to the aggregate: appends of one process wait for each other here, not by
    /// conflicts in the database.
    pub(super) turn: tokio::sync::Mutex<()>,
    log: Mutex<Option<Log>>,
}

/// A log of which something is known.
#[derive(Debug)]
struct Log {
    id: LogId,
    full: BTreeMap<i64, Full>,
    tail: Option<Arc<Tail>>,
    earlier: Earlier,
}

/// A bucket that does not change any more.
#[derive(Debug, Clone, Copy)]
struct Full {
    from: i64,
    seq: i64,
    /// The types of its events. `None`: not known.
    types: Option<u64>,
}

/// The ids of the events before the tail.
#[derive(Debug, Clone, Default)]
pub(super) enum Earlier {
    /// They were not looked at yet.
    #[default]
    Unknown,
    /// These are all.
    All(Arc<HashSet<Id>>),
    /// There are too many to keep.
    TooMany,
}

/// Where a read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The bucket.
    pub(super) number: i64,
    /// The log that it is known to belong to. `None`: it is the first bucket, of whatever log.
    pub(super) log: Option<LogId>,
}

impl Default for Known {
    fn default() -> Self {
        Self { state: Mutex::new(State { aggregates: LruCache::unbounded(), bytes: 0 }) }
    }
}

impl Known {
    /// What is known of an aggregate.
    pub(super) fn entry(&self, aggregate: &AggregateId) -> Arc<Entry> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let (entry, counted) =
            state.aggregates.get_or_insert_mut(aggregate.clone(), || (Arc::new(Entry::default()), 0));
        let entry = Arc::clone(entry);
        let weight = aggregate.as_str().len() + entry.weight();
        state.bytes = (state.bytes - *counted) + weight;
        *counted = weight;
        while (state.aggregates.len() > AGGREGATES || state.bytes > BYTES) && state.aggregates.len() > 1 {
            if let Some((_, (_, counted))) = state.aggregates.pop_lru() {
                state.bytes -= counted;
            }
        }
        entry
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, Option<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn weight(&self) -> usize {
        let log = self.lock();
        let of = |log: &Log| {
            let earlier = match &log.earlier {
                Earlier::All(ids) => ids.len() * 24,
                Earlier::Unknown | Earlier::TooMany => 0,
            };
            log.full.len() * 64 + log.tail.as_ref().map_or(0, |tail| tail.len() * 16) + earlier
        };
        OVERHEAD + log.as_ref().map_or(0, of)
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    /// The bucket at which the log grows, as far as is known.
    pub(super) fn tail(&self) -> Option<Arc<Tail>> {
        self.lock().as_ref()?.tail.clone()
    }

    /// The ids before the tail.
    pub(super) fn earlier(&self) -> Earlier {
        self.lock().as_ref().map(|log| log.earlier.clone()).unwrap_or_default()
    }

    /// Notes the ids before the bucket with this number.
    pub(super) fn learn_earlier(&self, log: LogId, tail: i64, earlier: Earlier) {
        if let Some(known) = &mut *self.lock()
            && known.id == log
            && known.tail.as_ref().is_some_and(|known| known.place.number == tail)
        {
            known.earlier = earlier;
        }
    }

    /// Notes the bucket at which the log grows.
    pub(super) fn learn_tail(&self, tail: Arc<Tail>) {
        let mut guard = self.lock();
        let log = of_log(&mut guard, tail.place.log);
        let before = log.tail.take();
        log.earlier = match (before, std::mem::take(&mut log.earlier)) {
            _ if tail.place.number == 1 => Earlier::All(Arc::default()),
            (Some(before), earlier) if before.place.number == tail.place.number => earlier,
            // The log has grown into the next bucket: what was known of the one before is whole if it ends where this begins.
            (Some(before), Earlier::All(mut ids))
                if before.place.number + 1 == tail.place.number && before.place.seq + 1 == tail.place.from =>
            {
                log.learn_place(Place { full: true, ..before.place }, None);
                if ids.len() + before.len() > IDS {
                    Earlier::TooMany
                } else {
                    Arc::make_mut(&mut ids).extend(before.ids());
                    Earlier::All(ids)
                }
            }
            (_, Earlier::TooMany) => Earlier::TooMany,
            _ => Earlier::Unknown,
        };
        log.learn_place(tail.place, None);
        log.tail = Some(tail);
    }

    /// Notes a bucket that was read.
    pub(super) fn learn(&self, place: Place, types: Option<u64>) {
        of_log(&mut self.lock(), place.log).learn_place(place, types);
    }

    /// Where a read of what comes after `sequence`, and is of these types, begins.
    pub(super) fn start(&self, sequence: u64, types: u64) -> Start {
        let after = i64::try_from(sequence).unwrap_or(i64::MAX);
        let guard = self.lock();
        let Some(log) = &*guard else { return Start { number: 1, log: None } };
        let behind = log.full.iter().rev().find(|(_, full)| full.seq <= after).map_or(0, |(number, _)| *number);
        let tail = log.tail.as_ref().filter(|tail| tail.place.from <= after + 1).map_or(1, |tail| tail.place.number);
        let number = log.skip(tail.max(behind + 1), types);
        Start { number, log: (number > 1).then_some(log.id) }
    }

    /// The first bucket from this one on that may hold events of these types.
    pub(super) fn skip(&self, log: LogId, number: i64, types: u64) -> i64 {
        match &*self.lock() {
            Some(known) if known.id == log => known.skip(number, types),
            _ => number,
        }
    }

    /// The greatest number of a bucket that is known to be there, and the log that it belongs to.
    pub(super) fn newest(&self) -> Option<(LogId, i64)> {
        let guard = self.lock();
        let log = guard.as_ref()?;
        let full = log.full.last_key_value().map_or(1, |(number, _)| *number);
        Some((log.id, log.tail.as_ref().map_or(1, |tail| tail.place.number).max(full)))
    }

    /// The number of the bucket that holds an event.
    pub(super) fn bucket_of(&self, sequence: u64) -> Option<i64> {
        let guard = self.lock();
        let log = guard.as_ref()?;
        if let Some(tail) = log.tail.as_ref().filter(|tail| tail.place.holds(sequence)) {
            return Some(tail.place.number);
        }
        let sequence = i64::try_from(sequence).ok()?;
        let (number, full) = log.full.iter().rev().find(|(_, full)| full.from <= sequence)?;
        (sequence <= full.seq).then_some(*number)
    }
}

/// What is known of this log: nothing, if what was known is of another.
fn of_log(known: &mut Option<Log>, id: LogId) -> &mut Log {
    if known.as_ref().is_some_and(|log| log.id != id) {
        *known = None;
    }
    known.get_or_insert_with(|| Log { id, full: BTreeMap::new(), tail: None, earlier: Earlier::Unknown })
}

impl Log {
    fn learn_place(&mut self, place: Place, types: Option<u64>) {
        if place.full {
            let full = self.full.entry(place.number).or_insert(Full { from: place.from, seq: place.seq, types });
            full.types = full.types.or(types);
        }
    }

    fn skip(&self, mut number: i64, types: u64) -> i64 {
        while let Some(Full { types: Some(held), .. }) = self.full.get(&number)
            && types != 0
            && held & types == 0
        {
            number += 1;
        }
        number
    }
}
