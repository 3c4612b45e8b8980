//! The queue: who has a slot, who waits, who is next. Pure state, no I/O.
//!
//! - **Order.** Of a user's own executions the one with the least [`Job::rank`] is first: the time since when it waits,
//!   plus [`Policy::ageing`] for each step of priority below the highest. So a higher priority is worth some waiting.
//! - **Urgency.** Users whose first executions have a higher priority come first; a user that is served nothing rises by a
//!   step with each [`Policy::ageing`], so that nobody waits for ever.
//! - **Fair shares.** Users whose first executions are equally urgent take turns such that the time for which their
//!   executions have slots, divided by their weights, stays equal (start-time fair queueing: Goyal, Vin and Cheng, 1996,
//!   with the time of a run as its length, guessed from the user's last runs and put right at its end).
//! - **Placement.** A slot is one of a runner that is alive, takes executions, is large enough and has one free: of
//!   these the one with the fewest slots in use.
//! - **Cost.** To give out a slot takes a time that grows with the logarithm of the users, with the runners, and with the
//!   sizes that a user asks for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use runmesh_proto::event::QueuePriority;
use serde::{Deserialize, Serialize};

mod explain;
mod fair;
mod place;

pub use explain::{Constraint, Standing};
use fair::{Key, User};
pub use place::Placed;

/// After so many releases users are forgotten that are away and owe nothing.
const SWEEP: u32 = 1_024;

/// How slots are shared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The waiting time that a step of priority is worth: after four times this the lowest priority is served like the
    /// highest.
    #[serde(with = "humantime_serde")]
    pub ageing: Duration,
    /// How many executions of one user have slots at once. 0: no limit.
    pub user_limit: usize,
    /// How many executions have slots at once on all runners together. 0: as many as the runners offer.
    pub global_limit: usize,
    /// How much of the slots a user gets beside others, above 0. Users that are not named have the weight 1.
    pub weights: HashMap<String, f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { ageing: Duration::from_secs(60), user_limit: 0, global_limit: 0, weights: HashMap::new() }
    }
}

/// What one execution may use at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Thousandths of a processor core.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
}

/// What a runner offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// How many executions it runs at once.
    pub slots: usize,
    /// The largest execution that it can run.
    pub largest: Size,
    /// It takes no more executions.
    pub draining: bool,
}

/// An execution that wants a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The execution.
    pub execution_id: String,
    /// The user it belongs to.
    pub user_id: String,
    /// Its priority.
    pub priority: QueuePriority,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// Since when it waits.
    pub since: SystemTime,
    /// What it may use.
    pub size: Size,
}

/// An execution that has a slot.
#[derive(Debug, Clone)]
struct Grant {
    job: Job,
    /// The runner whose slot it is. Empty: of slots that were given before there were such names.
    runner: String,
    at: SystemTime,
    /// What its user was charged for it.
    charged: Duration,
}

/// Slots and those who want one.
#[derive(Debug)]
pub struct Queue {
    policy: Policy,
    runners: BTreeMap<String, Offer>,
    granted: HashMap<String, Grant>,
    /// How many slots of each runner are in use.
    in_use: HashMap<String, usize>,
    waiting: HashMap<String, Job>,
    users: HashMap<String, User>,
    /// The users that could be given a slot, in the order of their turns.
    turns: BTreeSet<fair::Turn>,
    /// When the first execution of a user becomes more urgent.
    promotions: BTreeSet<(SystemTime, String)>,
    /// The turn that was taken last.
    clock: u64,
    releases: u32,
    /// The mean time of a run, of all users.
    mean: Option<Duration>,
    paused: bool,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It has a slot.
    Granted,
    /// It waits.
    Waiting,
    /// There are runners, and it is larger than what any of them can run.
    TooLarge,
}

impl Job {
    /// The place among those of its user: the least is first.
    fn rank(&self, ageing: Duration) -> SystemTime {
        self.since + ageing * steps(self.priority)
    }

    fn key(&self, ageing: Duration) -> Key {
        (self.rank(ageing), self.execution_id.clone())
    }
}

/// How many steps a priority is below the highest.
fn steps(priority: QueuePriority) -> u32 {
    match priority {
        QueuePriority::Critical => 0,
        QueuePriority::High => 1,
        QueuePriority::Normal | QueuePriority::Unspecified => 2,
        QueuePriority::Low => 3,
        QueuePriority::Background => 4,
    }
}

impl Offer {
    fn fits(&self, size: Size) -> bool {
        self.largest.cpu_millis >= size.cpu_millis && self.largest.memory_bytes >= size.memory_bytes
    }
}

impl Queue {
    /// An empty queue without runners.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            runners: BTreeMap::new(),
            granted: HashMap::new(),
            in_use: HashMap::new(),
            waiting: HashMap::new(),
            users: HashMap::new(),
            turns: BTreeSet::new(),
            promotions: BTreeSet::new(),
            clock: 0,
            releases: 0,
            mean: None,
            paused: false,
        }
    }

    /// While it is paused no slot is given out.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// An execution that had a slot before a restart has it still, at the same runner.
    pub fn restore_granted(&mut self, job: Job, runner: &str, at: SystemTime) {
        self.grant(job, runner, at);
    }

    /// Puts an execution in the queue: [`Queue::admit_next`] gives slots out. Asking again changes nothing.
    pub fn claim(&mut self, job: Job, now: SystemTime) -> Admission {
        if self.granted.contains_key(&job.execution_id) {
            return Admission::Granted;
        }
        if self.waiting.contains_key(&job.execution_id) {
            return Admission::Waiting;
        }
        if !self.runners.is_empty() && !self.runners.values().any(|offer| offer.fits(job.size)) {
            return Admission::TooLarge;
        }
        self.wait(job, now);
        Admission::Waiting
    }

    fn wait(&mut self, job: Job, now: SystemTime) {
        let (clock, key) = (self.clock, job.key(self.policy.ageing));
        let user = self.users.entry(job.user_id.clone()).or_default();
        if user.is_idle() {
            // Who was away has saved nothing up.
            user.pass = user.pass.max(clock);
        }
        user.add(key, job.size);
        let user_id = job.user_id.clone();
        self.waiting.insert(job.execution_id.clone(), job);
        self.place_user(&user_id, now);
    }

    /// Changes the priority of an execution that waits. Returns whether it does.
    pub fn set_priority(&mut self, execution_id: &str, priority: QueuePriority, now: SystemTime) -> bool {
        let Some(mut job) = self.waiting.remove(execution_id) else { return false };
        if let Some(user) = self.users.get_mut(&job.user_id) {
            user.remove(&job.key(self.policy.ageing), job.size);
        }
        job.priority = priority;
        self.wait(job, now);
        true
    }

    /// Gives a slot back, or a place in the queue. Returns whether there was one.
    pub fn release(&mut self, execution_id: &str, now: SystemTime) -> bool {
        if let Some(job) = self.waiting.remove(execution_id) {
            if let Some(user) = self.users.get_mut(&job.user_id) {
                user.remove(&job.key(self.policy.ageing), job.size);
            }
            self.place_user(&job.user_id, now);
            return true;
        }
        let Some(grant) = self.take_back(execution_id) else { return false };
        let took = now.duration_since(grant.at).unwrap_or_default();
        let weight = self.weight(&grant.job.user_id);
        if let Some(user) = self.users.get_mut(&grant.job.user_id) {
            user.running = user.running.saturating_sub(1);
            user.settle(grant.charged, took, weight);
        }
        self.mean = Some(fair::mean(self.mean, took));
        self.place_user(&grant.job.user_id, now);
        self.releases = self.releases.wrapping_add(1);
        if self.granted.is_empty() && self.waiting.is_empty() {
            // Nobody is there to whom anything could be owed.
            self.users.clear();
        } else if self.releases.is_multiple_of(SWEEP) {
            self.forget_users(now);
        }
        true
    }

    /// Gives a free slot to the next in the queue. `None`: nobody that may have one waits, or no slot is free.
    pub fn admit_next(&mut self, now: SystemTime) -> Option<Placed> {
        if self.paused || self.is_at_limit() {
            return None;
        }
        self.promote(now);
        let (key, runner) = {
            let room = self.room();
            let key = self.turns.iter().find_map(|turn| self.users.get(&turn.user_id)?.first_that_fits(&room))?;
            let runner = place::choose(&room, self.waiting.get(&key.1)?.size)?.to_owned();
            (key, runner)
        };
        let job = self.waiting.remove(&key.1)?;
        if let Some(user) = self.users.get_mut(&job.user_id) {
            user.remove(&key, job.size);
            self.clock = self.clock.max(user.pass);
        }
        self.grant(job.clone(), &runner, now);
        Some(Placed { job, runner })
    }

    fn grant(&mut self, job: Job, runner: &str, at: SystemTime) {
        let weight = self.weight(&job.user_id);
        let user = self.users.entry(job.user_id.clone()).or_default();
        let charged = user.charge(self.mean, weight);
        user.running += 1;
        user.served = Some(at);
        let user_id = job.user_id.clone();
        *self.in_use.entry(runner.to_owned()).or_default() += 1;
        let runner = runner.to_owned();
        self.granted.insert(job.execution_id.clone(), Grant { job, runner, at, charged });
        self.place_user(&user_id, at);
    }

    /// Takes back what [`Queue::admit_next`] gave: it could not be announced. It waits again, at its place.
    pub fn put_back(&mut self, job: &Job, now: SystemTime) {
        // Unless it was released in the meantime.
        let Some(grant) = self.take_back(&job.execution_id) else { return };
        let weight = self.weight(&job.user_id);
        if let Some(user) = self.users.get_mut(&job.user_id) {
            user.running = user.running.saturating_sub(1);
            user.settle(grant.charged, Duration::ZERO, weight);
        }
        self.wait(grant.job, now);
    }

    fn weight(&self, user_id: &str) -> f64 {
        self.policy.weights.get(user_id).copied().filter(|weight| *weight > 0.0).unwrap_or(1.0)
    }

    /// The execution, if it waits or has a slot.
    pub fn job(&self, execution_id: &str) -> Option<&Job> {
        self.waiting.get(execution_id).or_else(|| self.granted.get(execution_id).map(|grant| &grant.job))
    }

    /// Whether an execution has a slot.
    pub fn has_slot(&self, execution_id: &str) -> bool {
        self.granted.contains_key(execution_id)
    }

    /// The number of slots that are given.
    pub fn in_use(&self) -> usize {
        self.granted.len()
    }

    /// The number of executions that wait.
    pub fn depth(&self) -> usize {
        self.waiting.len()
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// The executions that have slots, in no order.
    pub fn granted(&self) -> impl Iterator<Item = &Job> {
        self.granted.values().map(|grant| &grant.job)
    }

    /// The executions that wait, in no order.
    pub fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.waiting.values()
    }
}

#[cfg(test)]
mod tests;
