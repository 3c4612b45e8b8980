//! What is handed to the workers: one record of a key at a time, in order; a key that takes long holds up no other.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{Delivery, Lane, Membership};

/// A record on its way to a worker. The permit is given back when the worker is done with it.
pub(super) type Assigned = (Delivery, OwnedSemaphorePermit);

/// The records that wait for a worker.
#[derive(Debug)]
pub(super) struct KeyedQueue {
    state: Mutex<State>,
    ready: Semaphore,
    membership: Membership,
    /// How many redrives and replays are worked on at once at most, so that there is a worker for what comes meanwhile.
    repeats: usize,
    /// From then on nothing is begun that lies behind everything that was begun in its lane.
    ending: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// Records that a worker may take: at most one of each key.
    ready: VecDeque<Assigned>,
    /// The same of redrives and replays, which are taken when no other is ready: they disturb nobody.
    repeated: VecDeque<Assigned>,
    /// How many of those are worked on.
    repeating: usize,
    /// How many workers have come for one when too many were worked on: so many permits are to be given again.
    owed: usize,
    /// The keys of which a record is ready or being worked on, each with those that wait behind it.
    keys: HashMap<Bytes, VecDeque<Assigned>>,
    /// The greatest offset of each lane that a worker has begun.
    begun: BTreeMap<Lane, u64>,
}

impl State {
    fn add_ready(&mut self, assigned: Assigned) {
        if assigned.0.is_repeated() { self.repeated.push_back(assigned) } else { self.ready.push_back(assigned) }
    }
}

impl KeyedQueue {
    /// A queue for so many workers.
    pub(super) fn new(membership: Membership, workers: usize, ending: CancellationToken) -> Self {
        let repeats = (workers - workers / 4).max(1);
        Self { state: Mutex::default(), ready: Semaphore::new(0), membership, repeats, ending }
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
        state.add_ready(assigned);
        drop(state);
        self.ready.add_permits(1);
    }

    /// The next record to work on. `None`: the queue was closed.
    pub(super) async fn next(&self) -> Option<Assigned> {
        loop {
            self.ready.acquire().await.ok()?.forget();
            self.membership.confirmed().await;
            let mut state = self.lock();
            if self.ending.is_cancelled() {
                self.remove_rest(&mut state, |_| true);
            }
            // What was waited for may have been given up meanwhile.
            let assigned = match state.ready.pop_front() {
                Some(assigned) => assigned,
                None if state.repeating >= self.repeats && !state.repeated.is_empty() => {
                    state.owed += 1;
                    continue;
                }
                None => match state.repeated.pop_front() {
                    Some(assigned) => {
                        state.repeating += 1;
                        assigned
                    }
                    None => continue,
                },
            };
            let begun = state.begun.entry(assigned.0.lane).or_default();
            *begun = assigned.0.offset.max(*begun);
            return Some(assigned);
        }
    }

    /// The worker takes another record, though something of this one may still have to be kept.
    pub(super) fn handled(&self, delivery: &Delivery) {
        if !delivery.is_repeated() {
            return;
        }
        let mut state = self.lock();
        state.repeating = state.repeating.saturating_sub(1);
        if state.owed > 0 {
            state.owed -= 1;
            drop(state);
            self.ready.add_permits(1);
        }
    }

    /// A record is over: the next one of its key may be taken, after those that are ready.
    pub(super) fn done(&self, delivery: &Delivery) {
        let mut state = self.lock();
        let mut permits = 0;
        match state.keys.get_mut(&delivery.key).map(VecDeque::pop_front) {
            Some(Some(next)) => {
                state.add_ready(next);
                permits += 1;
            }
            Some(None) => drop(state.keys.remove(&delivery.key)),
            None => {}
        }
        drop(state);
        self.ready.add_permits(permits);
    }

    /// Gives up what lies behind everything that a worker has begun in its lane, in the lanes of this kind. Returns the
    /// offset from which each lane is given up, 0 where it has none: what is before it can still be finished without a gap.
    pub(super) fn give_up_rest(&self, of: impl Fn(&Lane) -> bool) -> BTreeMap<Lane, u64> {
        self.remove_rest(&mut self.lock(), of)
    }

    fn remove_rest(&self, state: &mut State, of: impl Fn(&Lane) -> bool) -> BTreeMap<Lane, u64> {
        let from: BTreeMap<Lane, u64> = state.begun.iter().map(|(lane, offset)| (*lane, offset + 1)).collect();
        let first = |lane: &Lane| from.get(lane).copied().unwrap_or_default();
        self.remove(state, |delivery| of(&delivery.lane) && delivery.offset >= first(&delivery.lane));
        from
    }

    /// Gives up everything that no worker has begun, in these lanes.
    pub(super) fn give_up(&self, lanes: &[Lane]) {
        self.remove(&mut self.lock(), |delivery| lanes.contains(&delivery.lane));
    }

    /// The lanes are over: should they come back, they begin anew.
    pub(super) fn forget(&self, lanes: &[Lane]) {
        self.lock().begun.retain(|lane, _| !lanes.contains(lane));
    }

    fn remove(&self, state: &mut State, is_over: impl Fn(&Delivery) -> bool) {
        let State { ready, repeated, keys, .. } = &mut *state;
        for behind in keys.values_mut() {
            behind.retain(|(delivery, _)| !is_over(delivery));
        }
        let before = ready.len() + repeated.len();
        let mut freed = Vec::new();
        let mut keep = |(delivery, _): &Assigned| {
            let over = is_over(delivery);
            if over {
                freed.push(delivery.key.clone());
            }
            !over
        };
        ready.retain(&mut keep);
        repeated.retain(&mut keep);
        for key in freed {
            // What is behind may be of another lane: a key has records on several topics.
            match state.keys.get_mut(&key).and_then(VecDeque::pop_front) {
                Some(next) => state.add_ready(next),
                None => {
                    state.keys.remove(&key);
                }
            }
        }
        let gone = before.saturating_sub(state.ready.len() + state.repeated.len());
        // Where there are fewer permits, workers have them already, and find less than they came for.
        let forgotten = self.ready.forget_permits(gone);
        let left = state.repeated.len();
        state.owed = state.owed.saturating_sub(gone - forgotten).min(left);
    }

    /// No worker takes a record any more.
    pub(super) fn close(&self) {
        self.ready.close();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use runmesh_events::EventType;

    use super::*;
    use crate::header;

    const ONE: Lane = Lane { event_type: EventType::ExecutionStarted, partition: 0 };
    const OTHER: Lane = Lane { event_type: EventType::ExecutionStarted, partition: 1 };

    struct Bench {
        queue: KeyedQueue,
        permits: Arc<Semaphore>,
    }

    impl Bench {
        /// A queue with these records, as lane, offset and key. A key with `!` is that of redrives, one with `?` of replays.
        fn new(records: &[(Lane, u64, &'static str)]) -> Self {
            let queue = KeyedQueue::new(Membership::certain(), 16, CancellationToken::new());
            let bench = Self { queue, permits: Arc::new(Semaphore::new(64)) };
            for (lane, offset, key) in records {
                let delivery = Delivery {
                    lane: *lane,
                    offset: *offset,
                    event_type: lane.event_type,
                    partition: lane.partition,
                    key: Bytes::from_static(key.as_bytes()),
                    extra_headers: [('!', header::REDRIVE_GROUP), ('?', header::REPLAY)]
                        .into_iter()
                        .filter(|(mark, _)| key.ends_with(*mark))
                        .map(|(_, name)| (name.to_owned(), Bytes::from_static(b"bench")))
                        .collect(),
                    value: Bytes::new(),
                    timestamp: SystemTime::UNIX_EPOCH,
                    decoded: None,
                };
                bench.queue.push((delivery, Arc::clone(&bench.permits).try_acquire_owned().unwrap()));
            }
            bench
        }

        async fn take(&self) -> (Lane, u64) {
            let (delivery, _permit) = self.queue.next().await.unwrap();
            self.queue.handled(&delivery);
            self.queue.done(&delivery);
            (delivery.lane, delivery.offset)
        }

        /// All that is left, in the order in which a worker gets it.
        async fn rest(self) -> Vec<(Lane, u64)> {
            let mut rest = Vec::new();
            while self.queue.ready.available_permits() > 0 {
                rest.push(self.take().await);
            }
            assert!(self.queue.lock().ready.is_empty() && self.queue.lock().keys.is_empty());
            assert_eq!(self.permits.available_permits(), 64, "each record gave its permit back");
            rest
        }
    }

    #[tokio::test]
    async fn what_can_be_finished_without_a_gap_stays_and_the_rest_is_given_up() {
        let bench = Bench::new(&[(ONE, 1, "a"), (ONE, 2, "a"), (ONE, 3, "b"), (ONE, 4, "b"), (OTHER, 1, "c")]);
        assert_eq!(bench.take().await, (ONE, 1));
        assert_eq!(bench.take().await, (ONE, 3));
        let from = bench.queue.give_up_rest(|lane| *lane == ONE);
        assert_eq!(from.get(&ONE), Some(&4));
        assert_eq!(bench.rest().await, [(OTHER, 1), (ONE, 2)]);
    }

    #[tokio::test]
    async fn redrives_and_replays_are_taken_when_nothing_else_is_ready() {
        let bench = Bench::new(&[(ONE, 1, "a?"), (ONE, 2, "b!"), (ONE, 3, "b!"), (ONE, 4, "c"), (ONE, 5, "d")]);
        assert_eq!((bench.take().await, bench.take().await, bench.take().await), ((ONE, 4), (ONE, 5), (ONE, 1)));
        bench.queue.give_up(&[OTHER]);
        assert_eq!(bench.rest().await, [(ONE, 2), (ONE, 3)]);
    }

    #[tokio::test]
    async fn redrives_leave_a_worker_for_what_comes_meanwhile() {
        let mut bench = Bench::new(&[(ONE, 1, "a!"), (ONE, 2, "b!"), (ONE, 3, "c!"), (ONE, 4, "d!")]);
        bench.queue.repeats = 2;
        let bench = Arc::new(bench);
        let (first, _permit) = bench.queue.next().await.unwrap();
        let _second = bench.queue.next().await.unwrap();
        {
            // Two workers more come in vain, and one of them is there for a live record.
            let mut third = std::pin::pin!(bench.queue.next());
            let mut fourth = std::pin::pin!(bench.queue.next());
            assert!(futures::poll!(&mut third).is_pending() && futures::poll!(&mut fourth).is_pending());
            let permit = Arc::clone(&bench.permits).try_acquire_owned().unwrap();
            bench
                .queue
                .push((Delivery { extra_headers: Vec::new(), key: "e".into(), offset: 5, ..first.clone() }, permit));
            assert_eq!(third.await.unwrap().0.offset, 5);
            assert!(futures::poll!(&mut fourth).is_pending());
            bench.queue.handled(&first);
            assert_eq!(fourth.await.unwrap().0.offset, 3);
        }
        // What is given up is not waited for.
        assert!(futures::poll!(std::pin::pin!(bench.queue.next())).is_pending());
        bench.queue.give_up(&[ONE]);
        let state = bench.queue.lock();
        assert_eq!((state.owed, bench.queue.ready.available_permits()), (0, 0));
    }

    #[tokio::test]
    async fn a_key_waits_until_what_was_handled_is_kept_and_the_worker_does_not() {
        let mut bench = Bench::new(&[(ONE, 1, "a!"), (ONE, 2, "a!"), (ONE, 3, "b!")]);
        bench.queue.repeats = 1;
        let (first, _permit) = bench.queue.next().await.unwrap();
        bench.queue.handled(&first);
        assert_eq!(bench.take().await, (ONE, 3));
        assert!(futures::poll!(std::pin::pin!(bench.queue.next())).is_pending());
        bench.queue.done(&first);
        assert_eq!(bench.take().await, (ONE, 2));
    }

    #[tokio::test]
    async fn behind_what_is_given_up_waits_what_is_not() {
        let bench = Bench::new(&[(ONE, 1, "a"), (OTHER, 1, "a"), (ONE, 2, "a"), (ONE, 3, "b")]);
        bench.queue.give_up(&[ONE]);
        assert_eq!(bench.rest().await, [(OTHER, 1)]);
    }

    #[tokio::test]
    async fn a_worker_that_finds_less_than_it_came_for_goes_on_waiting() {
        let bench = Arc::new(Bench::new(&[(ONE, 1, "a")]));
        // As a worker that has its permit and not yet its record.
        bench.queue.ready.try_acquire().unwrap().forget();
        bench.queue.give_up(&[ONE]);
        bench.queue.ready.add_permits(1);
        let mut waiting = std::pin::pin!(bench.queue.next());
        assert!(futures::poll!(&mut waiting).is_pending());
        bench.queue.close();
        assert!(waiting.await.is_none());
    }

    #[tokio::test]
    async fn at_the_end_nothing_is_begun_but_what_closes_a_gap() {
        let bench = Bench::new(&[(ONE, 1, "a"), (ONE, 2, "a"), (ONE, 3, "b"), (ONE, 4, "b"), (OTHER, 1, "c")]);
        assert_eq!((bench.take().await, bench.take().await), ((ONE, 1), (ONE, 3)));
        bench.queue.ending.cancel();
        assert_eq!(bench.take().await, (ONE, 2));
        assert!(futures::poll!(std::pin::pin!(bench.queue.next())).is_pending());
    }

    #[tokio::test]
    async fn a_lane_that_comes_back_begins_anew() {
        let bench = Bench::new(&[(ONE, 9, "a"), (ONE, 10, "a")]);
        assert_eq!(bench.take().await, (ONE, 9));
        bench.queue.give_up(&[ONE]);
        bench.queue.forget(&[ONE]);
        assert!(bench.queue.give_up_rest(|_| true).is_empty());
    }
}
