//! What is handed to the workers: one record of a key at a time, in order; a key that takes long holds up no other.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Delivery;

/// A record on its way to a worker. The permit is given back when the worker is done with it.
pub(super) type Assigned = (Delivery, OwnedSemaphorePermit);

/// The records that wait for a worker.
#[derive(Debug)]
pub(super) struct KeyedQueue {
    state: Mutex<State>,
    ready: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    /// Records that a worker may take: at most one of each key.
    ready: VecDeque<Assigned>,
    /// The keys of which a record is ready or being worked on, each with those that wait behind it.
    keys: HashMap<Bytes, VecDeque<Assigned>>,
}

impl KeyedQueue {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), ready: Semaphore::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record, behind those of its key.
    pub(super) fn push(&self, assigned: Assigned) {
        let mut state = self.lock();
        if let Some(behind) = state.keys.get_mut(&assigned.0.key) {
            behind.push_back(assigned);
            return;
        }
        state.keys.insert(assigned.0.key.clone(), VecDeque::new());
        state.ready.push_back(assigned);
        drop(state);
        self.ready.add_permits(1);
    }

    /// The next record to work on. `None`: the queue was closed.
    pub(super) async fn next(&self) -> Option<Assigned> {
        self.ready.acquire().await.ok()?.forget();
        self.lock().ready.pop_front()
    }

    /// The worker is done with a record of this key: the next one of it may be taken, after those that are ready.
    pub(super) fn done(&self, key: &Bytes) {
        let mut state = self.lock();
        let Some(behind) = state.keys.get_mut(key) else { return };
        match behind.pop_front() {
            Some(next) => {
                state.ready.push_back(next);
                drop(state);
                self.ready.add_permits(1);
            }
            None => {
                state.keys.remove(key);
            }
        }
    }

    /// No worker takes a record any more.
    pub(super) fn close(&self) {
        self.ready.close();
    }
}
