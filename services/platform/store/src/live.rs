//! What is appended, as it happens: a wake-up for those that follow one aggregate, or all events of some types.
//!
//! A subscription holds no queue of its own. It tells that there is something new; what it is, is read from the store or
//! from the aggregate's short memory here, which exists only while someone follows the aggregate.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use runmesh_events::{AggregateId, Event, EventType};
use tokio::sync::{Notify, mpsc, watch};

use crate::Stored;

/// How many events of a followed aggregate are kept in memory.
const RECENT_EVENTS: usize = 256;

/// How many payload bytes of a followed aggregate are kept in memory, about.
const RECENT_BYTES: usize = 1 << 20;

/// How many appends wait for the reader of [`Appends`].
const APPENDS: usize = 4_096;

/// The sources of wake-ups. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LiveEvents {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    aggregates: HashMap<AggregateId, Followed>,
    /// How many there were so far.
    subscriptions: u64,
    types: Vec<Arc<TypeWake>>,
    appends: Option<(mpsc::Sender<Vec<Stored>>, Arc<AtomicBool>)>,
}

/// What this process appends, batch by batch.
#[derive(Debug)]
pub struct Appends {
    batches: mpsc::Receiver<Vec<Stored>>,
    missed: Arc<AtomicBool>,
}

impl Appends {
    /// The next batch, in the order of the appends. `None`: the store is gone.
    pub async fn next(&mut self) -> Option<Vec<Stored>> {
        self.batches.recv().await
    }

    /// The next batch if it is there already.
    pub fn try_next(&mut self) -> Option<Vec<Stored>> {
        self.batches.try_recv().ok()
    }

    /// Whether appends were left out since the last call, because the reader was too far behind: they have to be looked
    /// for in the store.
    pub fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }
}

#[derive(Debug)]
struct Followed {
    /// Tells it from one of the same aggregate that was deleted and made again.
    id: u64,
    followers: usize,
    head: watch::Sender<u64>,
    recent: VecDeque<Arc<Event>>,
    recent_bytes: usize,
}

/// Wakes up for appends of some types, and says of which.
#[derive(Debug)]
pub struct TypeWake {
    wanted: u64,
    pending: AtomicU64,
    notify: Notify,
}

impl TypeWake {
    /// Waits until something of the wanted types was appended since the last call.
    pub async fn woken(&self) -> TypeSet {
        loop {
            // Cancel-safe: the types are taken without a wait in between.
            let pending = self.pending.swap(0, Ordering::AcqRel);
            if pending != 0 {
                return TypeSet(pending);
            }
            self.notify.notified().await;
        }
    }
}

/// A set of event types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeSet(u64);

impl TypeSet {
    /// Whether the type is in the set.
    pub fn contains(self, event_type: EventType) -> bool {
        self.0 & bit(event_type) != 0
    }
}

/// Follows one aggregate.
#[derive(Debug)]
pub struct Subscription {
    live: LiveEvents,
    aggregate: AggregateId,
    id: u64,
    head: watch::Receiver<u64>,
}

impl LiveEvents {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows one aggregate.
    pub fn subscribe(&self, aggregate: &AggregateId) -> Subscription {
        let mut state = self.lock();
        state.subscriptions += 1;
        let id = state.subscriptions;
        let followed = state.aggregates.entry(aggregate.clone()).or_insert_with(|| Followed {
            id,
            followers: 0,
            head: watch::Sender::new(0),
            recent: VecDeque::new(),
            recent_bytes: 0,
        });
        followed.followers += 1;
        let (id, head) = (followed.id, followed.head.subscribe());
        Subscription { live: self.clone(), aggregate: aggregate.clone(), id, head }
    }

    /// Tells that an aggregate was deleted: whoever follows it is told that there is nothing to wait for.
    pub fn deleted(&self, aggregate: &AggregateId) {
        self.lock().aggregates.remove(aggregate);
    }

    /// Tells that an event is another one now: whoever has not seen it yet sees that one.
    pub fn replaced(&self, event: &Arc<Event>) {
        let aggregate = AggregateId::from(event.aggregate_id.as_str());
        let mut state = self.lock();
        let Some(followed) = state.aggregates.get_mut(&aggregate) else { return };
        if let Some(recent) = followed.recent.iter_mut().find(|recent| recent.event_id == event.event_id) {
            followed.recent_bytes = followed.recent_bytes + weight(event) - weight(recent);
            *recent = Arc::clone(event);
        }
    }

    /// A wake-up for every append with an event of one of these types. It is given up by dropping it.
    pub fn wake_on(&self, types: &[EventType]) -> Arc<TypeWake> {
        let wanted = types.iter().fold(0, |mask, event_type| mask | bit(*event_type));
        let wake = Arc::new(TypeWake { wanted, pending: AtomicU64::new(0), notify: Notify::new() });
        self.lock().types.push(Arc::clone(&wake));
        wake
    }

    /// Everything that this process appends from now on, for one reader: a second call takes over.
    pub fn appends(&self) -> Appends {
        let (sender, batches) = mpsc::channel(APPENDS);
        let missed = Arc::new(AtomicBool::new(false));
        self.lock().appends = Some((sender, Arc::clone(&missed)));
        Appends { batches, missed }
    }

    /// Tells that another process has appended: whoever follows the aggregate reads the store up to there.
    pub fn hint(&self, aggregate: &AggregateId, sequence: u64) {
        if let Some(followed) = self.lock().aggregates.get(aggregate) {
            followed.advance(sequence);
        }
    }

    /// Tells that something may have been appended that nobody was told of: the reader of [`Appends`] has to look for it.
    pub fn uncertain(&self) {
        if let Some((appends, missed)) = &self.lock().appends {
            missed.store(true, Ordering::Release);
            // Only to wake it: where there is no room, it is awake.
            let _ = appends.try_send(Vec::new());
        }
    }

    /// Tells what was appended. A backend calls it after each commit. Where the store is shared, an aggregate's events may
    /// come out of order.
    pub fn publish(&self, appended: &[Stored]) {
        let mut state = self.lock();
        if let Some((appends, missed)) = &state.appends
            && appends.try_send(appended.to_vec()).is_err()
        {
            missed.store(true, Ordering::Release);
        }
        let mut types = 0;
        for Stored { event, .. } in appended {
            types |= event.payload.as_ref().map_or(0, |payload| bit(payload.event_type()));
            if state.aggregates.is_empty() {
                continue;
            }
            let aggregate = AggregateId::from(event.aggregate_id.as_str());
            if let Some(followed) = state.aggregates.get_mut(&aggregate) {
                followed.push(Arc::clone(event));
            }
        }
        self.wake(&mut state, types);
    }

    /// Tells that records of these types can be read, without saying which.
    pub fn publish_types(&self, types: &[EventType]) {
        let mask = types.iter().fold(0, |mask, event_type| mask | bit(*event_type));
        self.wake(&mut self.lock(), mask);
    }

    fn wake(&self, state: &mut State, types: u64) {
        state.types.retain(|wake| {
            let pending = wake.wanted & types;
            if pending != 0 {
                wake.pending.fetch_or(pending, Ordering::AcqRel);
                wake.notify.notify_one();
            }
            Arc::strong_count(wake) > 1
        });
    }
}

/// Event types have numbers from 1 to 60, so a set of them is a 64-bit mask.
fn bit(event_type: EventType) -> u64 {
    1_u64.checked_shl(event_type as u32).unwrap_or(u64::MAX)
}

impl Followed {
    fn push(&mut self, event: Arc<Event>) {
        let sequence = event.sequence;
        if self.recent.back().is_some_and(|last| last.sequence + 1 != sequence) {
            self.recent.clear();
            self.recent_bytes = 0;
        }
        self.recent_bytes += weight(&event);
        self.recent.push_back(event);
        while self.recent.len() > RECENT_EVENTS || (self.recent_bytes > RECENT_BYTES && self.recent.len() > 1) {
            if let Some(oldest) = self.recent.pop_front() {
                self.recent_bytes -= weight(&oldest);
            }
        }
        self.advance(sequence);
    }

    fn advance(&self, sequence: u64) {
        self.head.send_if_modified(|head| {
            let is_news = sequence > *head;
            *head = sequence.max(*head);
            is_news
        });
    }
}

/// About what an event takes in memory: output is what can be large.
fn weight(event: &Event) -> usize {
    match &event.payload {
        Some(runmesh_events::Payload::ExecutionOutput(output)) => 512 + output.data.len(),
        Some(runmesh_events::Payload::ExecutionRequested(request)) => {
            512 + request.script.len()
                + request.stdin.len()
                + request.files.iter().map(|file| file.content.len()).sum::<usize>()
        }
        _ => 512,
    }
}

impl Subscription {
    /// Waits until the aggregate has an event after `sequence`, as far as this subscription was told. `false`: it was
    /// deleted.
    pub async fn beyond(&mut self, sequence: u64) -> bool {
        let is_there = self.live.lock().aggregates.get(&self.aggregate).is_some_and(|followed| followed.id == self.id);
        // The sender is dropped when the aggregate is deleted.
        is_there && self.head.wait_for(|head| *head > sequence).await.is_ok()
    }

    /// The events after `sequence` that are in memory. `None`: some of them are not; read the store.
    pub fn recent(&self, sequence: u64) -> Option<Vec<Arc<Event>>> {
        let state = self.live.lock();
        let followed = state.aggregates.get(&self.aggregate).filter(|followed| followed.id == self.id)?;
        let (first, last) = (followed.recent.front()?.sequence, followed.recent.back()?.sequence);
        if last < *followed.head.borrow() {
            return None;
        }
        let skip = usize::try_from((sequence + 1).checked_sub(first)?).ok()?;
        Some(followed.recent.iter().skip(skip).cloned().collect())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.live.lock();
        if let Entry::Occupied(mut entry) = state.aggregates.entry(self.aggregate.clone())
            && entry.get().id == self.id
        {
            entry.get_mut().followers -= 1;
            if entry.get().followers == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_is_remembered_only_while_it_is_followed() {
        let live = LiveEvents::default();
        let aggregate = AggregateId::from("a");
        for _ in 0..200 {
            let subscriptions: Vec<Subscription> = (0..4).map(|_| live.subscribe(&aggregate)).collect();
            assert_eq!(live.lock().aggregates.len(), 1);
            std::thread::scope(|scope| {
                for subscription in subscriptions {
                    scope.spawn(move || drop(subscription));
                }
            });
            assert_eq!(live.lock().aggregates.len(), 0);
        }
    }
}
