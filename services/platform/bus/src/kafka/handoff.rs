//! Between the polling thread and the consumer: records on their way, and partitions that move.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{Batch, BusError, Delivery, Lane};

/// Beyond this much, partitions are paused.
const FULL: (usize, usize) = (4_096, 16 << 20);

/// Below this much, they are resumed.
const LOW: (usize, usize) = (1_024, 4 << 20);

/// How many records a batch has at most.
const BATCH: usize = 256;

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
#[derive(Debug, Default)]
pub(super) struct Handoff {
    state: Mutex<State>,
    ready: Notify,
    changed: Condvar,
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
    /// The consumer was told and has not asked for more since: it still works on what it has of them.
    letting_go: bool,
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        if !state.left {
            state.revoked.extend_from_slice(lanes);
            self.ready.notify_one();
            let busy = |state: &mut State| !state.left && (state.letting_go || !state.revoked.is_empty());
            let (waited, timeout) =
                self.changed.wait_timeout_while(state, patience, busy).unwrap_or_else(PoisonError::into_inner);
            state = waited;
            if timeout.timed_out() {
                tracing::warn!(?lanes, "partitions go to another member with records in hand; it handles those again");
            }
        }
        state.owned.retain(|lane, _| !lanes.contains(lane));
    }

    /// These lanes are another member's already: nothing of them can be committed any more.
    pub(super) fn lost(&self, lanes: &[Lane]) {
        let mut state = self.lock();
        state.take_away(lanes);
        state.owned.retain(|lane, _| !lanes.contains(lane));
        if !state.left {
            state.revoked.extend_from_slice(lanes);
            drop(state);
            self.ready.notify_one();
        }
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

    /// Those of the offsets whose lanes are this member's.
    pub(super) fn committable(&self, offsets: &[(Lane, u64)]) -> Vec<(Lane, u64)> {
        let state = self.lock();
        offsets.iter().filter(|(lane, _)| state.owned.contains_key(lane)).copied().collect()
    }

    /// What the consumer gets next. To ask is to say that the lanes of which it was told last are let go.
    pub(super) async fn next(&self) -> Result<Batch, BusError> {
        loop {
            if let Some(batch) = self.take() {
                return batch;
            }
            // Cancel-safe: what is there is taken above, without a wait in between.
            self.ready.notified().await;
        }
    }

    fn take(&self) -> Option<Result<Batch, BusError>> {
        let mut state = self.lock();
        if state.letting_go {
            state.letting_go = false;
            self.changed.notify_all();
        }
        if !state.revoked.is_empty() {
            state.letting_go = true;
            return Some(Ok(Batch::Revoked(std::mem::take(&mut state.revoked))));
        }
        if !state.records.is_empty() {
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
