//! Sandboxes that were set up in advance, so that a run pays for little more than the start of its program. Each is used
//! once.
//!
//! In those that wait an interpreter is started too: the one that the newest run could use of those that could use any.
//! Nothing is started before the first such run. And they have the limits that the newest run had.
//!
//! All of that is done in pauses, not while a script is being started, which would wait for it, unless few are left.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Shared;
use super::cgroup::CgroupLimits;
use super::prepared::Prepared;
use super::warm::Target;
use crate::sandbox::SandboxError;

/// How long to wait before trying again after a sandbox could not be set up.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an interpreter that could not be prepared is left alone.
const REFUSAL: Duration = Duration::from_secs(60);
/// How long after one was taken nothing is done: a short script is over by then.
const QUIET: Duration = Duration::from_millis(5);
/// The same where one after the other is taken.
const LONGEST: Duration = Duration::from_millis(25);
/// A sandbox needs some memory itself; less than this is not set in advance.
const LEAST_MEMORY: u64 = 16 << 20;

/// The pool, and the thread that fills it. What is in it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
    /// The interpreter that the newest run could use.
    wanted: Option<Target>,
    /// The one that could not be prepared, and when.
    refused: Option<(Target, Instant)>,
    /// The limits of the newest run.
    limits: CgroupLimits,
    /// When one was taken, and when the first one since all was done.
    taken: Option<(Instant, Instant)>,
}

/// What is to be done for the pool.
enum Work {
    /// A new sandbox.
    Make,
    /// This interpreter in one that waits.
    Warm(Box<Prepared>, Target),
    /// These limits for one that waits.
    Limit(Box<Prepared>, CgroupLimits),
}

/// Tells the pool that a sandbox that was taken has begun its work, or will not.
#[derive(Debug)]
pub(super) struct Begun<'a>(&'a Pool);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.inner.changed.notify_one();
    }
}

impl Pool {
    /// Of this many, the first of which is there; the others are set up from now on.
    pub(super) fn start(shared: Arc<Shared>, size: usize, first: Prepared) -> Result<Pool, SandboxError> {
        let state = State { ready: [first].into_iter().take(size).collect(), ..State::default() };
        let inner = Arc::new(Inner { shared, size, state: Mutex::new(state), changed: Condvar::new() });
        let thread = if size == 0 {
            None
        } else {
            let inner = Arc::clone(&inner);
            let fill = std::thread::Builder::new().name("sandbox-pool".to_owned()).spawn(move || inner.fill());
            Some(fill.map_err(|source| SandboxError::Setup { step: "start a thread".to_owned(), source })?)
        };
        Ok(Pool { inner, thread: Mutex::new(thread) })
    }

    /// What is dropped once a sandbox that is about to be taken has begun its work.
    pub(super) fn begun(&self) -> Begun<'_> {
        Begun(self)
    }

    /// One that is ready, with this interpreter if there is one. `limits`: those of the run, which others may have too.
    pub(super) fn take(&self, target: Option<&Target>, limits: &CgroupLimits) -> Option<Prepared> {
        loop {
            let (taken, rest) = {
                let mut state = self.inner.lock();
                if limits.memory_bytes.is_none_or(|bytes| bytes >= LEAST_MEMORY) {
                    state.limits = *limits;
                }
                (state.take(target), state.rest(self.inner.size))
            };
            if rest.is_none() {
                self.inner.changed.notify_one();
            }
            match taken {
                // The machine may have been out of memory meanwhile.
                Some(prepared) if prepared.first.has_ended() => {}
                taken => return taken,
            }
        }
    }

    /// Ends those that wait; there will be no more.
    pub(super) fn close(&self) {
        {
            // Whoever fills it has seen that, or waits to be told.
            let _state = self.inner.lock();
            self.inner.shared.closed.store(true, Ordering::Release);
        }
        self.inner.changed.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            thread.join().ok();
        }
        let waiting = std::mem::take(&mut self.inner.lock().ready);
        drop(waiting);
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// In how many of them an interpreter waits.
    pub(super) fn prepared(&self) -> usize {
        self.inner.lock().ready.iter().filter(|prepared| prepared.warmed.is_some()).count()
    }
}

impl State {
    fn take(&mut self, target: Option<&Target>) -> Option<Prepared> {
        if target.is_some() {
            self.wanted = target.cloned();
        }
        let with = |target: Option<&Target>| {
            self.ready.iter().position(|one| one.warmed.as_ref().map(|warmed| &warmed.target) == target)
        };
        // An interpreter that is no use has to be ended first: better one without.
        let place = with(target).or_else(|| with(None)).unwrap_or(0);
        let now = Instant::now();
        self.taken = Some((now, self.taken.map_or(now, |(_, first)| first)));
        self.ready.remove(place)
    }

    /// How long nothing is to be done. `None`: there is no reason to wait.
    fn rest(&self, size: usize) -> Option<Duration> {
        let (last, first) = self.taken.filter(|_| self.ready.len() * 2 >= size)?;
        let rest = (last + QUIET).min(first + LONGEST).saturating_duration_since(Instant::now());
        Some(rest).filter(|rest| !rest.is_zero())
    }

    /// The interpreter to prepare now.
    fn target(&self) -> Option<&Target> {
        let refused = |target: &&Target| {
            self.refused.as_ref().is_some_and(|(refused, at)| refused == *target && at.elapsed() < REFUSAL)
        };
        self.wanted.as_ref().filter(|target| !refused(target))
    }

    fn work(&mut self, size: usize) -> Option<Work> {
        // First whole numbers: a sandbox without an interpreter serves any run.
        if self.ready.len() < size {
            return Some(Work::Make);
        }
        if let Some(target) = self.target().cloned()
            && let Some(prepared) = self.remove(|one| one.warmed.is_none())
        {
            return Some(Work::Warm(prepared, target));
        }
        // Last, since an interpreter is started without limits.
        let limits = self.limits;
        if let Some(prepared) = self.remove(|one| one.cgroup.as_ref().is_some_and(|cgroup| *cgroup.limits() != limits))
        {
            return Some(Work::Limit(prepared, limits));
        }
        self.taken = None;
        None
    }

    fn remove(&mut self, which: impl Fn(&Prepared) -> bool) -> Option<Box<Prepared>> {
        let place = self.ready.iter().position(which)?;
        self.ready.remove(place).map(Box::new)
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self) {
        let mut pause = None;
        while let Some(work) = self.next(&mut pause) {
            match work {
                Work::Make => match Prepared::make(&self.shared) {
                    Ok(prepared) => self.lock().ready.push_back(prepared),
                    // Closed meanwhile.
                    Err(SandboxError::ShuttingDown) => {}
                    Err(error) => {
                        tracing::warn!(%error, "could not set a sandbox up in advance");
                        pause = Some(PAUSE);
                    }
                },
                Work::Warm(prepared, target) => self.warm(*prepared, target),
                Work::Limit(prepared, limits) => self.limit(*prepared, &limits),
            }
        }
    }

    /// Waits until there is something to do. `None`: no more.
    fn next(&self, pause: &mut Option<Duration>) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if self.shared.closed.load(Ordering::Acquire) {
                return None;
            }
            let rest = pause.take().or_else(|| state.rest(self.size));
            state = match rest {
                Some(time) => {
                    let waited = self.changed.wait_timeout(state, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => match state.work(self.size) {
                    Some(work) => return Some(work),
                    None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                },
            };
        }
    }

    /// Gives a sandbox limits. One that can't have them is of no use any more.
    fn limit(&self, mut prepared: Prepared, limits: &CgroupLimits) {
        match prepared.limit(limits) {
            Ok(()) => self.lock().ready.push_back(prepared),
            Err(error) => {
                tracing::warn!(%error, "could not limit a sandbox in advance");
                // Not the next one too.
                self.lock().limits = CgroupLimits::default();
            }
        }
    }

    /// Starts this interpreter in a sandbox. One in which it can't be started is of no use any more.
    fn warm(&self, mut prepared: Prepared, target: Target) {
        let warmed = prepared.limit(&CgroupLimits::default()).and_then(|()| prepared.warm(&self.shared, &target));
        match warmed {
            Ok(()) => self.lock().ready.push_back(prepared),
            Err(error) => {
                tracing::warn!(program = target.program, %error, "could not start an interpreter in advance");
                self.lock().refused = Some((target, Instant::now()));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}
