//! Between the polling thread and the consumer: records on their way, and partitions that move.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use crate::{Batch, BusError, Delivery, Lane, Membership, membership::Signs};

/// Beyond this much, partitions are paused.
const FULL: (usize, usize) = (4_096, 16 << 20);

/// Below this much, they are resumed.
const LOW: (usize, usize) = (1_024, 4 << 20);

/// How many records a batch has at most.
const BATCH: usize = 256;

/// How often a thread that waits gives a sign of life.
const SIGN: Duration = Duration::from_millis(100);

/// How much waits for the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressure {
    /// Little: fetch.
    Low,
    /// Enough: go on as before.
    Middle,
    /// Too much: don't fetch.
    Full,
}

/// Shared by the polling thread, which puts in, and the subscription, which takes out.
#[derive(Debug)]
pub(super) struct Handoff {
    state: Mutex<State>,
    signs: Arc<Signs>,
    ready: Notify,
    changed: Condvar,
    gone: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<Delivery>,
    bytes: usize,
    /// The lanes of this member, each with the least offset that may come next.
    owned: BTreeMap<Lane, u64>,
    /// Whether there are new ones that the polling thread has not looked at.
    assigned: bool,
    /// Lanes that were taken away and of which the consumer was not told yet.
    revoked: Vec<Lane>,
    /// The same for lanes that another member has already.
    lost: Vec<Lane>,
    /// Lanes that were lost, and of which the consumer was told last.
    letting_go_lost: Vec<Lane>,
    /// The consumer was told and has not asked for more since: it still works on what it has of them.
    letting_go: bool,
    /// The process stood still, and the polling thread does not know yet.
    stood_still: bool,
    failed: Option<BusError>,
    left: bool,
}

impl State {
    fn take_away(&mut self, lanes: &[Lane]) {
        self.records.retain(|record| !lanes.contains(&record.lane));
        self.bytes = self.records.iter().map(weight).sum();
    }
}

impl Handoff {
    /// `patience`: how long this process may stand still before its membership is in doubt.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            signs: Signs::new(patience),
            ready: Notify::new(),
            changed: Condvar::new(),
            gone: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn membership(&self) -> Membership {
        self.signs.membership()
    }

    /// The polling thread begins with a membership.
    pub(super) fn begin(&self) {
        self.signs.renew();
    }

    /// A sign of life of the polling thread. `false`: the process stood still for too long, everything it had is given up,
    /// and the group has to be joined anew.
    pub(super) fn is_alive(&self) -> bool {
        if !self.signs.give() {
            self.stood_still();
        }
        !std::mem::take(&mut self.lock().stood_still)
    }

    fn stood_still(&self) {
        tracing::warn!("this process stood still for so long that the group goes on without it");
        self.lock().stood_still = true;
        self.lose_all();
    }

    /// Every lane is another member's already, as far as is known.
    pub(super) fn lose_all(&self) {
        let lanes: Vec<Lane> = self.lock().owned.keys().copied().collect();
        self.lost(&lanes);
    }

    /// A record was read. It is dropped when its lane is not this member's, or was read before.
    pub(super) fn push(&self, record: Delivery) {
        let mut state = self.lock();
        if state.left {
            return;
        }
        match state.owned.get_mut(&record.lane) {
            Some(next) if record.offset >= *next => *next = record.offset + 1,
            _ => return,
        }
        state.bytes += weight(&record);
        state.records.push_back(record);
        drop(state);
        self.ready.notify_one();
    }

    pub(super) fn pressure(&self) -> Pressure {
        let state = self.lock();
        if state.records.len() >= FULL.0 || state.bytes >= FULL.1 {
            Pressure::Full
        } else if state.records.len() <= LOW.0 && state.bytes <= LOW.1 {
            Pressure::Low
        } else {
            Pressure::Middle
        }
    }

    /// These lanes are this member's from now on.
    pub(super) fn assigned(&self, lanes: &[Lane]) {
        let mut state = self.lock();
        state.owned.extend(lanes.iter().map(|lane| (*lane, 0)));
        state.assigned = true;
    }

    /// Whether lanes were assigned since the last call.
    pub(super) fn take_assigned(&self) -> bool {
        std::mem::take(&mut self.lock().assigned)
    }

    /// These lanes are to be another member's. Waits until the consumer has finished what it has of them and committed,
    /// though not longer than `patience`.
    pub(super) fn revoke(&self, lanes: &[Lane], patience: Duration) {
        let mut state = self.lock();
        state.take_away(lanes);
        if !state.left && lanes.iter().any(|lane| state.owned.contains_key(lane)) {
            state.revoked.extend_from_slice(lanes);
            self.ready.notify_one();
            let since = Instant::now();
            while !state.left && (state.letting_go || !state.revoked.is_empty()) {
                if since.elapsed() >= patience {
                    tracing::warn!(
                        ?lanes,
                        "partitions go to another member with records in hand; it handles those again"
                    );
                    break;
                }
                (state, _) = self.changed.wait_timeout(state, SIGN).unwrap_or_else(PoisonError::into_inner);
                if !self.signs.give() {
                    drop(state);
                    return self.stood_still();
                }
            }
        }
        state.owned.retain(|lane, _| !lanes.contains(lane));
    }

    /// These lanes are another member's already: nothing of them can be committed any more, or may be begun.
    pub(super) fn lost(&self, lanes: &[Lane]) {
        let mut state = self.lock();
        state.take_away(lanes);
        state.owned.retain(|lane, _| !lanes.contains(lane));
        state.revoked.retain(|lane| !lanes.contains(lane));
        // The thread that says so is alive.
        if lanes.is_empty() || state.left {
            self.signs.renew();
            return;
        }
        self.signs.lost();
        state.lost.extend_from_slice(lanes);
        drop(state);
        self.ready.notify_one();
    }

    /// Nothing more will come.
    pub(super) fn fail(&self, error: BusError) {
        self.lock().failed = Some(error);
        self.ready.notify_one();
    }

    /// The subscription is over.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.left = true;
        state.records.clear();
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn has_left(&self) -> bool {
        self.lock().left
    }

    /// The group was left, and the polling thread ends.
    pub(super) fn is_gone(&self) {
        self.gone.notify_one();
    }

    /// Waits for that, though not longer than `patience`.
    pub(super) async fn until_gone(&self, patience: Duration) {
        let _ = timeout(patience, self.gone.notified()).await;
    }

    /// Waits in the polling thread for this long, or until the subscription is over.
    pub(super) fn pause(&self, wait: Duration) {
        let state = self.lock();
        let left = self.changed.wait_timeout_while(state, wait, |state| !state.left);
        drop(left.unwrap_or_else(PoisonError::into_inner));
        self.signs.renew();
    }

    /// Those of the offsets whose lanes are this member's.
    pub(super) fn committable(&self, offsets: &[(Lane, u64)]) -> Vec<(Lane, u64)> {
        let state = self.lock();
        // What was lost may have come back, but what the consumer has of it is of before.
        let is_own = |lane: &Lane| {
            state.owned.contains_key(lane) && !state.lost.contains(lane) && !state.letting_go_lost.contains(lane)
        };
        offsets.iter().filter(|(lane, _)| is_own(lane)).copied().collect()
    }

    /// What the consumer gets next; `records`: whether it has room for some. To ask is to say that the lanes of which it
    /// was told last are let go.
    pub(super) async fn next(&self, records: bool) -> Result<Batch, BusError> {
        loop {
            if let Some(batch) = self.take(records) {
                return batch;
            }
            // Cancel-safe: what is there is taken above, without a wait in between.
            self.ready.notified().await;
        }
    }

    fn take(&self, records: bool) -> Option<Result<Batch, BusError>> {
        let mut state = self.lock();
        if state.letting_go {
            state.letting_go = false;
            state.letting_go_lost.clear();
            self.changed.notify_all();
        }
        if !state.lost.is_empty() {
            state.letting_go = true;
            state.letting_go_lost = std::mem::take(&mut state.lost);
            return Some(Ok(Batch::Lost(state.letting_go_lost.clone())));
        }
        self.signs.let_go();
        if !state.revoked.is_empty() {
            state.letting_go = true;
            return Some(Ok(Batch::Revoked(std::mem::take(&mut state.revoked))));
        }
        if records && !state.records.is_empty() {
            let count = state.records.len().min(BATCH);
            let records: Vec<Delivery> = state.records.drain(..count).collect();
            state.bytes = state.bytes.saturating_sub(records.iter().map(weight).sum());
            return Some(Ok(Batch::Records(records)));
        }
        state.failed.clone().map(Err)
    }
}

/// About what a record takes in memory.
fn weight(record: &Delivery) -> usize {
    256 + record.key.len() + record.value.len()
}
