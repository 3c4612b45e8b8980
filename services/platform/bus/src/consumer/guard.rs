//! The flood guard: when all that a group handles fails, that is an outage, and no fault of the records.
//!
//! The group then takes on nothing more and tries, with growing waits, one record at a time, until one is handled. So an
//! outage does not turn a topic into dead letters. Only transient errors count: what fails for good shows that the
//! handler works, and becomes a dead letter as always.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use runmesh_events::GroupName;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// How many keys in a row have to be at the end of their tries, with nothing handled in between.
const KEYS: usize = 8;

/// How long ago the first of those may be.
const WINDOW: Duration = Duration::from_secs(30);

/// The first and the greatest wait between two probes.
const PROBES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Since when a group is paused, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Since when.
    pub(crate) since: SystemTime,
    /// The last error.
    pub(crate) error: String,
    /// How often it was tried since.
    pub(crate) probes: u32,
}

#[derive(Debug, Default)]
struct State {
    /// When the first of the keys failed of which none was handled since.
    failing_since: Option<Instant>,
    keys: HashSet<u64>,
    open: Option<Open>,
    /// When the last pause ended.
    resumed_at: Option<Instant>,
    /// How many pauses there were, with the one that is open: its number.
    pauses: u64,
}

/// A record that is tried while the group is paused, by the number of the pause. One that takes so long that the pause is over
/// meanwhile is none of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe(u64);

/// What a record is that is at the end of its tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// A dead letter.
    OfRecord,
    /// Held by the pause, and tried again at its turn.
    Held(Pause),
    /// Tried again at once: it was begun in an outage that is over.
    OfThePast,
}

#[derive(Debug)]
struct Open {
    pause: Pause,
    wait: Duration,
    next_probe: Instant,
    /// Whether one is being tried now.
    probing: bool,
}

/// The guard of one group.
#[derive(Debug)]
pub(super) struct Guard {
    group: GroupName,
    state: Mutex<State>,
    hasher: RandomState,
    changed: Notify,
}

impl Guard {
    pub(super) fn new(group: GroupName) -> Self {
        Self { group, state: Mutex::default(), hasher: RandomState::new(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a record may be tried: at once as a rule, at its turn while the group is paused, as a probe.
    pub(super) async fn pass(&self) -> Option<Probe> {
        loop {
            // Before the look: no change in between goes unseen.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let next = {
                let mut state = self.state();
                let number = state.pauses;
                let open = state.open.as_mut()?;
                match (open.probing, Instant::now() >= open.next_probe) {
                    (false, true) => {
                        open.probing = true;
                        return Some(Probe(number));
                    }
                    (false, false) => Some(open.next_probe),
                    (true, _) => None,
                }
            };
            match next {
                Some(next) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(next) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Whether the group is paused.
    pub(super) fn is_paused(&self) -> bool {
        self.state().open.is_some()
    }

    /// A record was handled, or failed in a way that shows that the handler works. Returns whether the group was paused.
    pub(super) fn works(&self) -> bool {
        let mut state = self.state();
        if state.failing_since.is_none() && state.open.is_none() {
            return false;
        }
        let was_open = state.open.is_some();
        let resumed_at = if was_open { Some(Instant::now()) } else { state.resumed_at };
        *state = State { resumed_at, pauses: state.pauses, ..State::default() };
        drop(state);
        if was_open {
            tracing::info!(group = %self.group, "goes on");
            self.gauge(0.0);
            self.changed.notify_waiters();
        }
        was_open
    }

    /// A record of this key is at the end of its tries. `started` is when the last of them was, `probe` what it passed as last.
    pub(super) fn fails(&self, key: &[u8], error: &str, started: Instant, probe: Option<Probe>) -> Failure {
        let now = Instant::now();
        let mut state = self.state();
        let number = state.pauses;
        if let Some(open) = &mut state.open {
            if probe != Some(Probe(number)) {
                // It was under way when the group was paused.
                return Failure::Held(open.pause.clone());
            }
            open.probing = false;
            open.wait = (open.wait * 2).min(PROBES.1);
            open.next_probe = now + open.wait;
            open.pause.probes = open.pause.probes.saturating_add(1);
            error.clone_into(&mut open.pause.error);
            let pause = open.pause.clone();
            drop(state);
            self.changed.notify_waiters();
            return Failure::Held(pause);
        }
        if state.resumed_at.is_some_and(|resumed| started <= resumed) {
            return Failure::OfThePast;
        }
        if state.failing_since.is_none_or(|since| now.duration_since(since) > WINDOW) {
            state.failing_since = Some(now);
            state.keys.clear();
        }
        state.keys.insert(self.hasher.hash_one(key));
        if state.keys.len() < KEYS {
            return Failure::OfRecord;
        }
        let pause = Pause { since: SystemTime::now(), error: error.to_owned(), probes: 0 };
        let wait = PROBES.0;
        state.pauses += 1;
        state.open = Some(Open { pause: pause.clone(), wait, next_probe: now + wait, probing: false });
        drop(state);
        tracing::error!(group = %self.group, error, "all that it handles fails; it is paused, and tries again");
        self.gauge(1.0);
        Failure::Held(pause)
    }

    fn gauge(&self, paused: f64) {
        metrics::gauge!("consumer_group_paused", "group" => self.group.as_str()).set(paused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupName = GroupName::new("guarded");

    fn fail(guard: &Guard, keys: std::ops::Range<usize>) -> Failure {
        keys.map(|key| guard.fails(format!("{key}").as_bytes(), "down", Instant::now(), None)).last().unwrap()
    }

    /// The pause by which a record is held.
    fn held(failure: Failure) -> Pause {
        match failure {
            Failure::Held(pause) => pause,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn some_failures_are_no_outage() {
        let guard = Guard::new(GROUP);
        assert_eq!(fail(&guard, 0..KEYS - 1), Failure::OfRecord);
        // One key, however often.
        for _ in 0..100 {
            assert_eq!(fail(&guard, 0..1), Failure::OfRecord);
        }
        // One that is handled in between.
        assert!(!guard.works());
        assert_eq!(fail(&guard, 0..KEYS - 1), Failure::OfRecord);
        // Others, much later.
        tokio::time::advance(WINDOW * 2).await;
        assert_eq!(fail(&guard, 100..100 + KEYS - 1), Failure::OfRecord);
        assert_eq!(guard.pass().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_probed_by_one_at_a_time_with_growing_waits() {
        let guard = std::sync::Arc::new(Guard::new(GROUP));
        let pause = held(fail(&guard, 0..KEYS));
        assert_eq!((pause.probes, pause.error.as_str()), (0, "down"));
        let mut waits = Vec::new();
        for probe in 1..9 {
            let before = Instant::now();
            // What was under way before makes the wait no longer.
            assert_eq!(held(fail(&guard, 1..2)).probes, probe - 1);
            let turn = guard.pass().await;
            assert!(turn.is_some());
            waits.push(before.elapsed().as_millis());
            // Another one has to wait for how this one goes.
            let second = tokio::time::timeout(Duration::from_secs(3_600), guard.pass()).await;
            assert!(second.is_err());
            assert_eq!(held(guard.fails(b"0", "still down", before, turn)).probes, probe);
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert_eq!((waits[0], waits[7]), (500, 30_000));
        let waiting = tokio::spawn({
            let guard = std::sync::Arc::clone(&guard);
            async move { guard.pass().await }
        });
        guard.pass().await;
        assert!(guard.works());
        waiting.await.unwrap();
        assert!(!guard.works());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_under_way_when_a_pause_ended_makes_no_letter() {
        let guard = Guard::new(GROUP);
        let begun = Instant::now();
        assert_eq!(held(fail(&guard, 0..KEYS)).probes, 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(guard.works());
        for key in 0..u8::try_from(KEYS).unwrap() {
            assert_eq!(guard.fails(&[key], "down", begun, None), Failure::OfThePast);
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(fail(&guard, 0..KEYS - 1), Failure::OfRecord);
        // What others handle makes the past no other.
        assert!(!guard.works());
        assert_eq!(guard.fails(b"0", "down", begun, None), Failure::OfThePast);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_outlives_its_pause_is_none_of_the_next() {
        let guard = Guard::new(GROUP);
        held(fail(&guard, 0..KEYS));
        let old = guard.pass().await;
        assert!(guard.works());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(held(fail(&guard, 0..KEYS)).probes, 0);
        let before = Instant::now();
        let new = guard.pass().await;
        assert_eq!(before.elapsed(), PROBES.0);
        // Its failure is no news of this pause, and lets no second one go.
        assert_eq!(held(guard.fails(b"0", "down", before, old)).probes, 0);
        assert!(tokio::time::timeout(PROBES.1, guard.pass()).await.is_err());
        assert_eq!(held(guard.fails(b"0", "down", before, new)).probes, 1);
    }
}
