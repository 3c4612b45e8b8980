//! Answers the saga's commands.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, Cause, Event, EventType, GroupName, Payload, TraceParent, lifecycle};
use runmesh_proto::{
    event::{ExecutionAccepted, ExecutionErrorType, ExecutionFailed, ExecutionQueued},
    queue::Runner,
};
use runmesh_store::{Ahead, DocumentStore, Documents, EventStore, Expected, Member, Members, StoreError, read_log};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    claim::{Claim, Switches},
    log::{Accepted, Log, TYPES},
    queue::{Admission, Job, Placed, Policy, Queue},
};

/// The scheduler's group.
pub const GROUP: GroupName = GroupName::new("scheduler");

/// What the group reads.
pub const TOPICS: [EventType; 2] = [EventType::AllocateResourcesCommand, EventType::ReleaseResourcesCommand];

/// The kind of member that runs executions.
pub const RUNNERS: &str = "runner";

/// The ordinals of the events that the scheduler derives from the allocate command.
pub(crate) mod ordinal {
    pub(super) const ACCEPTED: u32 = 0;
    pub(super) const QUEUED: u32 = 1;
    pub(super) const REFUSED: u32 = 2;
    pub(crate) const STRANDED: u32 = 3;
}

/// What became of an event about a slot.
enum Told {
    /// It is in the log now.
    Now,
    /// There was no need: the log has the slot already.
    Before(Option<Accepted>),
    /// The slot is not needed any more.
    TooLate,
}

/// How often the runners and the switches are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What is counted of slots that were taken back.
pub(crate) const REPAIRS: &str = "reconciler_repairs_total";
/// How far the place of a new execution in the queue is counted, so that a long queue costs no more than a short one.
const TOLD: usize = 100;

/// Settings of the scheduler.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// How many executions a runner runs at once. 0: twice the number of its processor cores.
    pub slots: usize,
    /// How slots are shared.
    pub policy: Policy,
}

impl SchedulerConfig {
    /// The number of slots that the setting stands for.
    pub fn effective_slots(&self) -> usize {
        match self.slots {
            0 => 2 * std::thread::available_parallelism().map_or(1, usize::from),
            slots => slots,
        }
    }
}

/// Why the scheduler can't be built.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The store failed.
    #[error("the scheduler can't read its claims: {0}")]
    Store(#[from] StoreError),
}

/// The scheduler. Clones share the queue.
#[derive(Clone)]
pub struct Scheduler {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) claims: Documents<Claim>,
    pub(crate) switches: Documents<Switches>,
    pub(crate) members: Members,
    queue: Mutex<State>,
}

/// The queue, and what is known beside it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) queue: Queue,
    pub(crate) runners: Vec<(Member, Runner)>,
    pub(crate) switches: Switches,
}

impl Scheduler {
    /// The scheduler, with an empty queue: see [`Scheduler::recover`].
    ///
    /// # Errors
    /// When the collections can't be made.
    pub async fn build(
        config: &SchedulerConfig,
        store: Arc<dyn EventStore>,
        documents: Arc<dyn DocumentStore>,
    ) -> Result<Self, SchedulerError> {
        let claims = Documents::open(Arc::clone(&documents)).await?;
        let switches = Documents::open(Arc::clone(&documents)).await?;
        let members = Members::open(documents, RUNNERS).await?;
        let queue = Queue::new(config.policy.clone());
        let state = State { queue, runners: Vec::new(), switches: Switches::default() };
        Ok(Self { inner: Arc::new(Inner { store, claims, switches, members, queue: Mutex::new(state) }) })
    }

    /// The scheduler's consumer group.
    pub fn consumer_group(&self) -> ConsumerGroup {
        ConsumerGroup::new(GROUP, &TOPICS, Arc::new(self.clone()))
    }

    /// Finds every claim as it was before the restart, and gives out what slots are free. To be called before the group is
    /// run.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn recover(&self) -> Result<(), SchedulerError> {
        self.inner.load(true).await?;
        self.inner.dispatch().await?;
        Ok(())
    }

    /// Finds every claim, and changes nothing.
    pub(crate) async fn look(&self) -> Result<(), StoreError> {
        self.inner.load(false).await
    }

    /// Looks at the runners and the switches, gives up what runners had that are gone before they began with it, and gives
    /// out what is free.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn look_around(&self) -> Result<(), StoreError> {
        self.inner.refresh().await?;
        self.inner.give_up_stranded().await?;
        self.inner.dispatch().await
    }

    /// Does that from time to time, until `shutdown`, and every `compare` compares what has slots with the logs.
    pub async fn watch(&self, compare: Duration, shutdown: CancellationToken) {
        metrics::counter!(REPAIRS, "what" => "slot").increment(0);
        let mut over = BTreeSet::new();
        let mut compare_at = Instant::now() + compare;
        while shutdown.run_until_cancelled(sleep(LOOK)).await.is_some() {
            let looked = async {
                self.look_around().await?;
                if Instant::now() >= compare_at {
                    over = self.inner.compare(&over).await?;
                    compare_at = Instant::now() + compare;
                }
                Ok::<_, StoreError>(())
            };
            if let Err(error) = looked.await {
                tracing::warn!(%error, "the scheduler can't look at its runners; trying again");
            }
        }
    }
}

#[async_trait]
impl Handler for Scheduler {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        let inner = &self.inner;
        match &incoming.event.payload {
            Some(Payload::AllocateResourcesCommand(command)) => {
                inner.allocate(incoming.trace, &command.execution_id).await?;
            }
            Some(Payload::ReleaseResourcesCommand(command)) => {
                inner.release(&command.execution_id, lifecycle::attempt(command.attempt)).await?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn allocate(&self, trace: TraceParent, execution_id: &str) -> Result<(), StoreError> {
        let (events, _) = read_log(self.store.as_ref(), &AggregateId::from(execution_id), &TYPES).await?;
        let log = Log::of(execution_id, &events);
        if log.over || log.allocate.is_none() {
            return Ok(());
        }
        let job = log.job;
        let earlier = self.state().queue.job(execution_id).is_some_and(|earlier| earlier.attempt < job.attempt);
        if earlier {
            // The command to release it is on its way, and comes too late.
            self.release(execution_id, job.attempt - 1).await?;
        }
        if let Some(Accepted { at, runner }) = log.accepted
            && !self.state().queue.has_slot(execution_id)
        {
            // It was given before a crash that came before its claim was durable.
            self.state().queue.restore_granted(job.clone(), &runner, at);
        }
        let admission = self.state().queue.claim(job.clone(), SystemTime::now());
        self.gauges();
        match admission {
            Admission::Granted => {
                let runner = self.state().queue.runner_of(execution_id).unwrap_or_default().to_owned();
                let claim = self.claims.ahead(&Claim::of(&job));
                self.announce(&Placed { job, runner }, Some(trace), Some(claim)).await
            }
            Admission::TooLarge => self.refuse(&job, trace).await,
            Admission::Waiting => {
                // What is given out is in the log; the claim says that there is something to look for after a restart, and
                // until it is durable the command is delivered again.
                let (kept, dispatched) = tokio::join!(self.keep(&job), self.dispatch());
                kept.and(dispatched)?;
                if !self.state().queue.has_slot(execution_id) {
                    self.tell_place(&job, trace).await?;
                }
                Ok(())
            }
        }
    }

    /// Makes the claim durable.
    async fn keep(&self, job: &Job) -> Result<(), StoreError> {
        match self.claims.insert(&Claim::of(job)).await {
            Ok(_) => Ok(()),
            // A second delivery, or the claim of an earlier attempt.
            Err(StoreError::RevisionMismatch { .. }) => {
                let Some(found) = self.claims.get(&job.execution_id).await? else {
                    return Err(StoreError::Unavailable("a claim on a slot was removed meanwhile".to_owned()));
                };
                if found.document.attempt < job.attempt {
                    self.claims.update(&Claim::of(job), found.revision).await?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes the claim of this attempt, or of an earlier one.
    async fn forget(&self, execution_id: &str, attempt: i32) -> Result<(), StoreError> {
        let found = self.claims.get(execution_id).await?;
        let Some(found) = found.filter(|found| found.document.attempt <= attempt) else { return Ok(()) };
        match self.claims.delete_if(execution_id, found.revision).await {
            // A later attempt, or a new priority.
            Err(StoreError::RevisionMismatch { .. }) => {
                Err(StoreError::Unavailable("a claim on a slot was changed meanwhile".to_owned()))
            }
            other => other.map(drop),
        }
    }

    pub(crate) async fn release(&self, execution_id: &str, attempt: i32) -> Result<(), StoreError> {
        self.forget(execution_id, attempt).await?;
        {
            let queue = &mut self.state().queue;
            if queue.job(execution_id).is_some_and(|job| job.attempt <= attempt) {
                queue.release(execution_id, SystemTime::now());
            }
        }
        self.gauges();
        self.dispatch().await
    }

    /// Gives out free slots as long as somebody waits.
    pub(crate) async fn dispatch(&self) -> Result<(), StoreError> {
        loop {
            let Some(next) = self.state().queue.admit_next(SystemTime::now()) else { return Ok(()) };
            self.gauges();
            if let Err(error) = self.announce(&next, None, None).await {
                self.state().queue.put_back(&next.job, SystemTime::now());
                return Err(error);
            }
        }
    }

    /// Appends that the execution has its slot, once, behind its claim where that is not kept yet. One that needs it no longer
    /// gives it back.
    async fn announce(
        &self,
        placed: &Placed,
        trace: Option<TraceParent>,
        claim: Option<Ahead>,
    ) -> Result<(), StoreError> {
        let Placed { job, runner } = placed;
        let accepted = |log: &Log<'_>| {
            log.accepted.is_none().then(|| ExecutionAccepted {
                execution_id: job.execution_id.clone(),
                queue_position: 0,
                estimated_wait: None,
                priority: job.priority as i32,
                runner: runner.clone(),
                attempt: job.attempt,
            })
        };
        let to_keep = claim.is_some();
        match self.append_to_open(job, ordinal::ACCEPTED, trace, claim, accepted).await? {
            Told::Now => return Ok(()),
            Told::Before(accepted) => {
                if to_keep {
                    self.keep(job).await?;
                }
                // Another scheduler gave it, or this one, and did not hear that it had.
                if let Some(other) = accepted.filter(|accepted| accepted.runner != *runner) {
                    self.state().queue.move_to(&job.execution_id, &other.runner);
                }
                return Ok(());
            }
            Told::TooLate => {}
        }
        // Not by way of `release`, which gives out more slots: this one is given out by whoever called.
        self.forget(&job.execution_id, job.attempt).await?;
        self.state().queue.release(&job.execution_id, SystemTime::now());
        Ok(())
    }

    /// Ends an execution that no runner can run.
    async fn refuse(&self, job: &Job, trace: TraceParent) -> Result<(), StoreError> {
        let largest = self.state().queue.runners().values().map(|offer| offer.largest.memory_bytes).max();
        let failed = |_: &Log<'_>| {
            Some(ExecutionFailed {
                execution_id: job.execution_id.clone(),
                exit_code: lifecycle::NO_EXIT_CODE,
                error_type: ExecutionErrorType::ResourceLimit as i32,
                error_message: format!(
                    "it may use {} bytes of memory and {} thousandths of a core, and no runner that is alive is that large \
                     (the most is {} bytes)",
                    job.size.memory_bytes,
                    job.size.cpu_millis,
                    largest.unwrap_or_default()
                ),
                ..ExecutionFailed::default()
            })
        };
        self.append_to_open(job, ordinal::REFUSED, Some(trace), None, failed).await.map(drop)
    }

    /// Appends the place of an execution that waits, unless it has its slot by now.
    async fn tell_place(&self, job: &Job, trace: TraceParent) -> Result<(), StoreError> {
        let place = self.state().queue.place_of(&job.execution_id, SystemTime::now(), TOLD);
        let queued = |log: &Log<'_>| {
            log.accepted.is_none().then(|| ExecutionQueued {
                execution_id: job.execution_id.clone(),
                position_in_queue: place.and_then(|place| i32::try_from(place).ok()),
                estimated_start_time: None,
                attempt: job.attempt,
            })
        };
        self.append_to_open(job, ordinal::QUEUED, Some(trace), None, queued).await.map(drop)
    }

    /// Appends what `decide` makes of a log that still needs the slot of this attempt, behind its claim if that is given.
    async fn append_to_open<P: Into<Payload>>(
        &self,
        job: &Job,
        ordinal: u32,
        trace: Option<TraceParent>,
        mut claim: Option<Ahead>,
        decide: impl Fn(&Log<'_>) -> Option<P>,
    ) -> Result<Told, StoreError> {
        let aggregate = AggregateId::from(job.execution_id.as_str());
        loop {
            let (events, head) = read_log(self.store.as_ref(), &aggregate, &TYPES).await?;
            let log = Log::of(&job.execution_id, &events);
            let open = |_: &&Event| !log.over && log.job.attempt == job.attempt;
            let Some(allocate) = log.allocate.filter(open) else { return Ok(Told::TooLate) };
            let Some(payload) = decide(&log) else { return Ok(Told::Before(log.accepted)) };
            let cause = Cause::new(allocate, GROUP);
            let event = trace.map_or(cause, |trace| cause.traced(trace)).derive(ordinal, payload);
            let (expected, events) = (Expected::Sequence(head), vec![event]);
            let appended = match claim.take() {
                None => self.store.append(&aggregate, expected, events).await,
                Some(claim) => match self.store.append_behind(claim, &aggregate, expected, events).await {
                    Ok(behind) => behind.appended,
                    Err(StoreError::RevisionMismatch { .. }) => {
                        self.keep(job).await?;
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match appended {
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map(|_| Told::Now),
            }
        }
    }

    pub(crate) fn gauges(&self) {
        let (in_use, depth, slots) = {
            let state = self.state();
            (state.queue.in_use(), state.queue.depth(), state.queue.slots())
        };
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        {
            metrics::gauge!("scheduler_slots").set(slots as f64);
            metrics::gauge!("scheduler_slots_in_use").set(in_use as f64);
            metrics::gauge!("scheduler_queue_depth").set(depth as f64);
        }
    }
}
