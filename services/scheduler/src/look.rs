//! What the scheduler looks at by itself: claims, runners, switches, and whether what has slots is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use prost::Message as _;
use runmesh_events::{AggregateId, Cause, lifecycle};
use runmesh_proto::queue::Runner;
use runmesh_store::{Expected, Member, PageQuery, StoreError, read_log};

use crate::{
    claim::{BY_TIME, Switches},
    handlers::{GROUP, Inner, REPAIRS, ordinal},
    log::{Accepted, Log, TYPES},
    queue::{Job, Offer, Size},
};

impl Inner {
    pub(crate) async fn load(&self, repair: bool) -> Result<(), StoreError> {
        self.refresh().await?;
        let mut query = PageQuery { index: BY_TIME, limit: 1_000, ..PageQuery::default() };
        loop {
            let page = self.claims.page(query.clone()).await?;
            for claim in page.documents.into_iter().map(|versioned| versioned.document) {
                let id = claim.execution_id.clone();
                let (events, _) = read_log(self.store.as_ref(), &AggregateId::from(id.as_str()), &TYPES).await?;
                let log = Log::of(&id, &events);
                let job = claim.into_job();
                match log.accepted {
                    _ if log.over => {
                        // Its release was not handled, or can't be any more because the log is gone.
                        if repair {
                            self.claims.delete(&id).await?;
                        }
                    }
                    Some(Accepted { at, runner }) => self.state().queue.restore_granted(job, &runner, at),
                    None => drop(self.state().queue.claim(job, SystemTime::now())),
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(());
            }
        }
    }

    /// Looks at the runners and the switches.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let alive = self.members.alive().await?;
        let switches = self.switches.get(Switches::ID).await?.map(|found| found.document).unwrap_or_default();
        let runners: Vec<_> = alive
            .into_iter()
            .filter_map(|member| Some((member.clone(), Runner::decode(member.words.as_slice()).ok()?)))
            .collect();
        let offers: BTreeMap<_, _> =
            runners.iter().map(|(member, runner)| (member.name.clone(), offer(member, runner))).collect();
        let changed = {
            let mut state = self.state();
            state.queue.set_runners(offers);
            state.queue.set_paused(switches.paused);
            state.runners = runners;
            let changed = state.switches.changes != switches.changes;
            state.switches = switches;
            changed
        };
        if changed {
            self.take_over_priorities().await?;
        }
        self.gauges();
        Ok(())
    }

    /// Looks for claims whose priority another process has changed.
    async fn take_over_priorities(&self) -> Result<(), StoreError> {
        let waiting: Vec<Job> = self.state().queue.waiting().cloned().collect();
        for job in waiting {
            let Some(claim) = self.claims.get(&job.execution_id).await? else { continue };
            let priority = crate::claim::priority(claim.document.priority);
            if priority != job.priority {
                self.state().queue.set_priority(&job.execution_id, priority, SystemTime::now());
            }
        }
        Ok(())
    }

    /// Gives up what runners had that are not alive any more and had not begun with it, so that it goes to others. What
    /// was begun is seen to by its lease.
    pub(crate) async fn give_up_stranded(&self) -> Result<(), StoreError> {
        let stranded = self.state().queue.stranded();
        for job in stranded {
            self.give_up(&job).await?;
        }
        Ok(())
    }

    async fn give_up(&self, job: &Job) -> Result<(), StoreError> {
        let aggregate = AggregateId::from(job.execution_id.as_str());
        loop {
            let (events, head) = read_log(self.store.as_ref(), &aggregate, &TYPES).await?;
            let log = Log::of(&job.execution_id, &events);
            let is_open = !log.over && !log.begun && !log.lost && log.job.attempt == job.attempt;
            let (Some(allocate), Some(accepted)) = (log.allocate.filter(|_| is_open), log.accepted) else {
                return Ok(());
            };
            let words = format!("the runner {} was gone before it began", accepted.runner);
            tracing::warn!(execution_id = job.execution_id, runner = accepted.runner, "given to another runner");
            let lost = lifecycle::attempt_lost(&job.execution_id, job.attempt, "runner lost", &words);
            let event = Cause::new(allocate, GROUP).derive(ordinal::STRANDED, lost);
            match self.store.append(&aggregate, Expected::Sequence(head), vec![event]).await {
                // The runner may be there after all: if it has begun now, it goes on.
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Takes back the slots of attempts that are over by their logs, and were at the last look too: the command to release
    /// one may be on its way. Returns those that are over now.
    pub(crate) async fn compare(&self, last: &BTreeSet<(String, i32)>) -> Result<BTreeSet<(String, i32)>, StoreError> {
        let granted: Vec<Job> = self.state().queue.granted().cloned().collect();
        let mut over = BTreeSet::new();
        for job in granted {
            if !self.is_over(&job).await? {
                continue;
            }
            let slot = (job.execution_id.clone(), job.attempt);
            let still = self.state().queue.job(&job.execution_id).is_some_and(|now| now.attempt == job.attempt);
            if still && last.contains(&slot) {
                tracing::warn!(execution_id = job.execution_id, "a slot was still held by an execution that is over");
                self.release(&job.execution_id, job.attempt).await?;
                metrics::counter!(REPAIRS, "what" => "slot").increment(1);
            } else {
                over.insert(slot);
            }
        }
        Ok(over)
    }

    async fn is_over(&self, job: &Job) -> Result<bool, StoreError> {
        let id = job.execution_id.as_str();
        let (events, _) = read_log(self.store.as_ref(), &AggregateId::from(id), &TYPES).await?;
        let log = Log::of(id, &events);
        Ok(log.over || log.job.attempt > job.attempt)
    }
}

/// What a runner offers, by what it says.
fn offer(member: &Member, runner: &Runner) -> Offer {
    let or_any = |number: i64| if number == 0 { i64::MAX } else { number };
    Offer {
        slots: usize::try_from(runner.slots).unwrap_or_default(),
        largest: Size { cpu_millis: or_any(runner.cpu_millis), memory_bytes: or_any(runner.memory_bytes) },
        draining: member.draining,
    }
}
