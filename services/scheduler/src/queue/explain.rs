//! Why an execution waits.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{Job, Queue, fair};

/// How far places are counted.
const FAR: usize = 10_000;

/// What keeps an execution from its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    /// Nothing: it is about to get one.
    None,
    /// The queue is paused.
    Paused,
    /// No runner is alive.
    NoRunner,
    /// All runners that could run it take no more.
    Draining,
    /// No runner that is alive is large enough.
    TooLarge,
    /// Its user has as many slots as one user may have.
    UserLimit,
    /// All slots are in use, or others come first.
    Slots,
}

/// Where an execution stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How many are served before it if nothing changes, and itself. `None`: more than 10,000.
    pub place: Option<usize>,
    /// What keeps it.
    pub constraint: Constraint,
    /// The same in words.
    pub words: String,
    /// How long it may wait, by the time that runs took lately. `None`: nothing is known.
    pub estimate: Option<Duration>,
}

impl Queue {
    /// Where an execution stands. `None`: it does not wait.
    pub fn standing(&self, execution_id: &str, now: SystemTime) -> Option<Standing> {
        let job = self.waiting.get(execution_id)?;
        let place = self.place(job, now, FAR);
        let (constraint, words) = self.constraint(job, place);
        let estimate = self.estimate(place).filter(|_| matches!(constraint, Constraint::None | Constraint::Slots));
        Some(Standing { place, constraint, words, estimate })
    }

    fn estimate(&self, place: Option<usize>) -> Option<Duration> {
        let slots = u32::try_from(self.slots()).ok().filter(|slots| *slots > 0)?;
        Some(self.mean? * u32::try_from(place?).ok()? / slots)
    }

    fn constraint(&self, job: &Job, place: Option<usize>) -> (Constraint, String) {
        let fitting = || self.runners.values().filter(|offer| offer.fits(job.size));
        let running = self.users.get(&job.user_id).map_or(0, |user| user.running);
        let limit = self.policy.user_limit;
        if self.paused {
            (Constraint::Paused, "the queue is paused".to_owned())
        } else if self.runners.is_empty() {
            (Constraint::NoRunner, "no runner is alive".to_owned())
        } else if fitting().next().is_none() {
            let words = "none of the runners that are alive is large enough for it".to_owned();
            (Constraint::TooLarge, words)
        } else if fitting().all(|offer| offer.draining) {
            (Constraint::Draining, "the runners that could run it take no more executions".to_owned())
        } else if limit > 0 && running >= limit {
            (Constraint::UserLimit, format!("{running} executions of the same user run, which is the limit for a user"))
        } else if !self.has_room_for(job.size) {
            let (slots, ahead) = (self.slots_for(job.size), place.map(|place| place - 1));
            let ahead = ahead.map_or_else(|| format!("more than {FAR}"), |ahead| ahead.to_string());
            let of = if slots == self.slots() { "" } else { " of runners that are large enough" };
            (Constraint::Slots, format!("all {slots} slots{of} are in use, and {ahead} executions come before it"))
        } else {
            (Constraint::None, "it is about to get a slot".to_owned())
        }
    }

    /// The place of an execution that waits if nothing changes but that slots become free, from 1, as far as this.
    pub fn place_of(&self, execution_id: &str, now: SystemTime, far: usize) -> Option<usize> {
        self.place(self.waiting.get(execution_id)?, now, far)
    }

    fn steps_of(&self, key: &fair::Key) -> u32 {
        self.waiting.get(&key.1).map_or(0, |job| super::steps(job.priority))
    }

    fn place(&self, job: &Job, now: SystemTime, far: usize) -> Option<usize> {
        let ageing = self.policy.ageing;
        let mut queues: HashMap<&str, _> = HashMap::new();
        let mut heads = std::collections::BTreeSet::new();
        for (user_id, user) in self.users.iter().filter(|(_, user)| !user.waiting.is_empty()) {
            let mut keys = user.waiting.iter();
            let guess = user.guess(self.mean, self.weight(user_id));
            if let Some(first) = keys.next() {
                let rank = user.rank(first, self.steps_of(first), ageing);
                heads.insert((fair::level(rank, ageing, now), user.pass, first, user_id.as_str()));
                queues.insert(user_id, (keys, guess));
            }
        }
        for place in 1..=far {
            let (_, pass, key, user_id) = heads.pop_first()?;
            if key.1 == job.execution_id {
                return Some(place);
            }
            let (keys, guess) = queues.get_mut(user_id)?;
            if let Some(next) = keys.next() {
                // Its user will just have been served.
                let rank = next.0.max(now + ageing * self.steps_of(next));
                heads.insert((fair::level(rank, ageing, now), pass.saturating_add(*guess), next, user_id));
            }
        }
        None
    }
}
