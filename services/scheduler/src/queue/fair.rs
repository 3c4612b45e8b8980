//! Whose turn it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use super::{
    Queue, Size,
    place::{Room, choose},
    steps,
};
use runmesh_proto::event::QueuePriority;

/// The place of an execution among those of its user.
pub(super) type Key = (SystemTime, String);

/// What a run is taken for of which nothing is known, and the least that one is charged.
const UNKNOWN: Duration = Duration::from_millis(100);
const LEAST: Duration = Duration::from_millis(1);

/// How long it is remembered what a user had that is away.
const REMEMBERED: Duration = Duration::from_secs(600);

/// One user's part.
#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) waiting: BTreeSet<Key>,
    /// The same by what they may use, so that one that fits into what is free is found among any number that do not.
    by_size: BTreeMap<Size, BTreeSet<Key>>,
    pub(super) running: usize,
    /// The slot time that it has had so far, in nanoseconds divided by its weight.
    pub(super) pass: u64,
    /// When it was last given a slot.
    pub(super) served: Option<SystemTime>,
    /// The mean time of its runs.
    mean: Option<Duration>,
    turn: Option<Turn>,
    promotion: Option<SystemTime>,
}

/// A user's place among the others: the least is next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// How far the first execution is from the highest urgency.
    level: u32,
    pass: u64,
    first: Key,
    pub(super) user_id: String,
}

impl User {
    /// One more waits.
    pub(super) fn add(&mut self, key: Key, size: Size) {
        self.by_size.entry(size).or_default().insert(key.clone());
        self.waiting.insert(key);
    }

    /// One waits no more.
    pub(super) fn remove(&mut self, key: &Key, size: Size) {
        self.waiting.remove(key);
        if let Some(keys) = self.by_size.get_mut(&size) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_size.remove(&size);
            }
        }
    }

    /// The first of those that fit into what is free.
    pub(super) fn first_that_fits(&self, room: &[Room<'_>]) -> Option<Key> {
        let fitting = self.by_size.iter().filter(|(size, _)| choose(room, **size).is_some());
        fitting.filter_map(|(_, keys)| keys.first()).min().cloned()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }

    /// What tells how urgent its first execution is among those of other users: who is served now and then does not grow
    /// more urgent by a long queue.
    pub(super) fn rank(&self, first: &Key, steps: u32, ageing: Duration) -> SystemTime {
        self.served.map_or(first.0, |served| first.0.max(served + ageing * steps))
    }

    /// Charges for a run that begins, what it is guessed to take.
    pub(super) fn charge(&mut self, mean_of_all: Option<Duration>, weight: f64) -> Duration {
        let guess = self.mean.or(mean_of_all).unwrap_or(UNKNOWN).max(LEAST);
        self.pass = self.pass.saturating_add(weighted(guess, weight));
        guess
    }

    /// What it is charged for its next run.
    pub(super) fn guess(&self, mean_of_all: Option<Duration>, weight: f64) -> u64 {
        weighted(self.mean.or(mean_of_all).unwrap_or(UNKNOWN).max(LEAST), weight)
    }

    /// Puts right what was charged for a run, once it is known what it took.
    pub(super) fn settle(&mut self, charged: Duration, took: Duration, weight: f64) {
        let pass = self.pass.saturating_add(weighted(took, weight));
        self.pass = pass.saturating_sub(weighted(charged, weight));
        if !took.is_zero() {
            self.mean = Some(mean(self.mean, took));
        }
    }
}

/// The mean, of which the newest value is an eighth.
pub(super) fn mean(so_far: Option<Duration>, newest: Duration) -> Duration {
    so_far.map_or(newest, |mean| (mean * 7 + newest) / 8)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "far below 2^52"
)]
fn weighted(time: Duration, weight: f64) -> u64 {
    (time.as_nanos() as f64 / weight) as u64
}

impl Queue {
    /// Gives a user the place that it has now.
    pub(super) fn place_user(&mut self, user_id: &str, now: SystemTime) {
        let (ageing, limit, clock) = (self.policy.ageing, self.policy.user_limit, self.clock);
        let Some(user) = self.users.get_mut(user_id) else { return };
        if let Some(turn) = user.turn.take() {
            self.turns.remove(&turn);
        }
        if let Some(at) = user.promotion.take() {
            self.promotions.remove(&(at, user_id.to_owned()));
        }
        let may_have_more = limit == 0 || user.running < limit;
        let Some(first) = user.waiting.first().filter(|_| may_have_more).cloned() else {
            if user.is_idle() && user.pass <= clock {
                self.users.remove(user_id);
            }
            return;
        };
        let steps = self.waiting.get(&first.1).map_or(0, |job| steps(job.priority));
        let rank = user.rank(&first, steps, ageing);
        let level = level(rank, ageing, now);
        if level > 0 {
            let at = rank - ageing * (level - 1);
            user.promotion = Some(at);
            self.promotions.insert((at, user_id.to_owned()));
        }
        let turn = Turn { level, pass: user.pass, first, user_id: user_id.to_owned() };
        user.turn = Some(turn.clone());
        self.turns.insert(turn);
    }

    /// Forgets who is away and has had no more than those who are here.
    pub(super) fn forget_users(&mut self, now: SystemTime) {
        let clock = self.clock;
        let lately = |user: &User| user.served.is_some_and(|served| now < served + REMEMBERED);
        self.users.retain(|_, user| !user.is_idle() || (user.pass > clock && lately(user)));
    }

    /// Gives those whose first executions have become more urgent their new places.
    pub(super) fn promote(&mut self, now: SystemTime) {
        while let Some((at, user_id)) = self.promotions.first().filter(|(at, _)| *at <= now).cloned() {
            self.promotions.remove(&(at, user_id.clone()));
            self.place_user(&user_id, now);
        }
    }
}

/// How many steps an execution of this rank is from the highest urgency.
pub(super) fn level(rank: SystemTime, ageing: Duration, now: SystemTime) -> u32 {
    let left = rank.duration_since(now).unwrap_or_default();
    if left.is_zero() || ageing.is_zero() {
        return 0;
    }
    let levels = left.as_nanos().div_ceil(ageing.as_nanos());
    u32::try_from(levels).unwrap_or(u32::MAX).min(steps(QueuePriority::Background))
}
