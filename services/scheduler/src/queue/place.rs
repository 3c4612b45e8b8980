//! Which runner's slot one gets, and what runners have left.

use std::collections::BTreeMap;

use super::{Grant, Job, Offer, Queue, Size};

/// An execution that was given a slot, and whose slot it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The execution.
    pub job: Job,
    /// The runner that is to run it.
    pub runner: String,
}

/// A runner that has a slot free.
#[derive(Debug)]
pub(super) struct Room<'a> {
    name: &'a str,
    offer: &'a Offer,
    in_use: usize,
}

/// The runner that one of this size goes to: of those that it fits the one with the fewest slots in use, of equal ones
/// the first by name.
pub(super) fn choose<'a>(room: &[Room<'a>], size: Size) -> Option<&'a str> {
    let fitting = room.iter().filter(|room| room.offer.fits(size));
    fitting.min_by_key(|room| (room.in_use, room.name)).map(|room| room.name)
}

impl Queue {
    /// The runners that are alive, by name, and what they offer. What those that are gone had keeps its slot until it is
    /// released.
    pub fn set_runners(&mut self, runners: BTreeMap<String, Offer>) {
        self.runners = runners;
    }

    /// The runners that are alive.
    pub fn runners(&self) -> &BTreeMap<String, Offer> {
        &self.runners
    }

    /// The number of slots on runners that take executions, or the limit over all of them.
    pub fn slots(&self) -> usize {
        self.limited(self.runners.values().filter(|offer| !offer.draining).map(|offer| offer.slots).sum())
    }

    /// The same, on runners that can run one of this size.
    pub(super) fn slots_for(&self, size: Size) -> usize {
        let offers = self.runners.values().filter(|offer| !offer.draining && offer.fits(size));
        self.limited(offers.map(|offer| offer.slots).sum())
    }

    fn limited(&self, offered: usize) -> usize {
        match self.policy.global_limit {
            0 => offered,
            limit => limit.min(offered),
        }
    }

    /// Whether as many have slots as may on all runners together.
    pub(super) fn is_at_limit(&self) -> bool {
        self.policy.global_limit > 0 && self.granted.len() >= self.policy.global_limit
    }

    /// Whether one of this size could have a slot now.
    pub(super) fn has_room_for(&self, size: Size) -> bool {
        !self.is_at_limit() && choose(&self.room(), size).is_some()
    }

    /// How many slots of this runner are in use.
    pub fn in_use_on(&self, runner: &str) -> usize {
        self.in_use.get(runner).copied().unwrap_or_default()
    }

    /// The runners that take executions and have a slot free.
    pub(super) fn room(&self) -> Vec<Room<'_>> {
        let mut free = 0;
        let mut room = Vec::new();
        for (name, offer) in self.runners.iter().filter(|(_, offer)| !offer.draining) {
            let in_use = self.in_use_on(name);
            if in_use < offer.slots {
                free += offer.slots - in_use;
                room.push(Room { name, offer, in_use });
            }
        }
        // Of these it is not known which runner has them, so each may be in use on any.
        if free <= self.in_use_on("") {
            room.clear();
        }
        room
    }

    /// The runner whose slot an execution has.
    pub fn runner_of(&self, execution_id: &str) -> Option<&str> {
        self.granted.get(execution_id).map(|grant| grant.runner.as_str())
    }

    /// The slot of an execution turns out to be another runner's.
    pub fn move_to(&mut self, execution_id: &str, runner: &str) {
        let Some(grant) = self.granted.get_mut(execution_id) else { return };
        let before = std::mem::replace(&mut grant.runner, runner.to_owned());
        *self.in_use.entry(runner.to_owned()).or_default() += 1;
        self.count_down(&before);
    }

    /// The executions whose slots are of runners that are not alive.
    pub fn stranded(&self) -> Vec<Job> {
        let is_gone = |grant: &&Grant| !grant.runner.is_empty() && !self.runners.contains_key(&grant.runner);
        self.granted.values().filter(is_gone).map(|grant| grant.job.clone()).collect()
    }

    pub(super) fn take_back(&mut self, execution_id: &str) -> Option<Grant> {
        let grant = self.granted.remove(execution_id)?;
        self.count_down(&grant.runner);
        Some(grant)
    }

    fn count_down(&mut self, runner: &str) {
        if let Some(in_use) = self.in_use.get_mut(runner) {
            *in_use -= 1;
            if *in_use == 0 {
                self.in_use.remove(runner);
            }
        }
    }
}
