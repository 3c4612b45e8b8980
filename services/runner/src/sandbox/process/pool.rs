//! Sandboxes that were set up in advance, so that a run pays for little more than the start of its program. Each is used
//! once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Shared;
use super::prepared::Prepared;
use crate::sandbox::SandboxError;

/// How long to wait before trying again after a sandbox could not be set up.
const PAUSE: Duration = Duration::from_secs(1);

/// The pool, and the thread that fills it. What is in it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Prepared>,
    stopping: bool,
}

impl Pool {
    /// Of this many, the first of which is there; the others are set up from now on.
    pub(super) fn start(shared: Arc<Shared>, size: usize, first: Prepared) -> Result<Pool, SandboxError> {
        let state = State { ready: [first].into_iter().take(size).collect(), stopping: false };
        let inner = Arc::new(Inner { shared, size, state: Mutex::new(state), changed: Condvar::new() });
        let thread = if size == 0 {
            None
        } else {
            let inner = Arc::clone(&inner);
            let fill = std::thread::Builder::new().name("sandbox-pool".to_owned()).spawn(move || inner.fill());
            Some(fill.map_err(|source| SandboxError::Setup { step: "start a thread".to_owned(), source })?)
        };
        Ok(Pool { inner, thread })
    }

    /// One that is ready, or else a new one. Blocks for some ms in the latter case.
    pub(super) fn take(&self) -> Result<Prepared, SandboxError> {
        loop {
            let taken = self.inner.lock().ready.pop_front();
            self.inner.changed.notify_one();
            match taken {
                // The machine may have been out of memory meanwhile.
                Some(prepared) if prepared.first.has_ended() => {}
                Some(prepared) => return Ok(prepared),
                None => return Prepared::make(&self.inner.shared),
            }
        }
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.inner.lock().ready.len()
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self) {
        let mut pause = None;
        loop {
            {
                let mut state = self.lock();
                while !state.stopping && (state.ready.len() >= self.size || pause.is_some()) {
                    state = match pause.take() {
                        Some(time) => {
                            let waited = self.changed.wait_timeout(state, time);
                            waited.unwrap_or_else(PoisonError::into_inner).0
                        }
                        None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    };
                }
                if state.stopping {
                    return;
                }
            }
            match Prepared::make(&self.shared) {
                Ok(prepared) => self.lock().ready.push_back(prepared),
                Err(error) => {
                    tracing::warn!(%error, "could not set a sandbox up in advance");
                    pause = Some(PAUSE);
                }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.lock().stopping = true;
        self.inner.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        self.inner.lock().ready.clear();
    }
}
