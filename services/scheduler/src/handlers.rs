//! Answers the saga's commands.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{
    AggregateId, Cause, Event, EventType, GroupName, Payload, TraceParent, from_timestamp, lifecycle,
};
use runmesh_proto::event::{ExecutionAccepted, ExecutionQueued, QueuePriority};
use runmesh_store::{DocumentStore, Documents, EventStore, Expected, PageQuery, StoreError, read_log};
use serde::{Deserialize, Serialize};

use crate::{
    claim::{BY_TIME, Claim},
    queue::{Admission, Queue},
};

/// The scheduler's group.
pub const GROUP: GroupName = GroupName::new("scheduler");

/// What the group reads.
pub const TOPICS: [EventType; 2] = [EventType::AllocateResourcesCommand, EventType::ReleaseResourcesCommand];

/// The ordinals of the events that the scheduler derives from the allocate command.
mod ordinal {
    pub(super) const ACCEPTED: u32 = 0;
    pub(super) const QUEUED: u32 = 1;
}

/// What the scheduler reads of a log.
const TYPES: [EventType; 8] = [
    EventType::ExecutionRequested,
    EventType::ExecutionAccepted,
    EventType::AllocateResourcesCommand,
    EventType::ReleaseResourcesCommand,
    lifecycle::TERMINAL[0],
    lifecycle::TERMINAL[1],
    lifecycle::TERMINAL[2],
    lifecycle::TERMINAL[3],
];

/// Settings of the scheduler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// How many executions run at once. 0: twice the number of processor cores.
    pub slots: usize,
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
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn EventStore>,
    claims: Documents<Claim>,
    queue: Mutex<Queue>,
}

impl Scheduler {
    /// The scheduler, with an empty queue: see [`Scheduler::recover`].
    ///
    /// # Errors
    /// When the collection of claims can't be made.
    pub async fn build(
        config: &SchedulerConfig,
        store: Arc<dyn EventStore>,
        documents: Arc<dyn DocumentStore>,
    ) -> Result<Self, SchedulerError> {
        let claims = Documents::open(documents).await?;
        let queue = Mutex::new(Queue::new(config.effective_slots()));
        Ok(Self { inner: Arc::new(Inner { store, claims, queue }) })
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
        let inner = &self.inner;
        let mut query = PageQuery { index: BY_TIME, limit: 1_000, ..PageQuery::default() };
        loop {
            let page = inner.claims.page(query.clone()).await?;
            for claim in page.documents.into_iter().map(|versioned| versioned.document) {
                let id = claim.execution_id.as_str();
                let (events, _) = read_log(inner.store.as_ref(), &AggregateId::from(id), &TYPES).await?;
                let log = Log::of(&events);
                if log.over {
                    // Its release was not handled, or can't be any more because the log is gone.
                    inner.claims.delete(id).await?;
                } else if log.accepted {
                    inner.queue().restore_granted(id);
                } else {
                    inner.queue().wait(id, priority(claim.priority), claim.since);
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        inner.dispatch().await?;
        Ok(())
    }
}

fn priority(number: i32) -> QueuePriority {
    QueuePriority::try_from(number).unwrap_or(QueuePriority::Normal)
}

#[async_trait]
impl Handler for Scheduler {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        let inner = &self.inner;
        match &incoming.event.payload {
            Some(Payload::AllocateResourcesCommand(command)) => inner.allocate(incoming, &command.execution_id).await?,
            Some(Payload::ReleaseResourcesCommand(command)) => inner.release(&command.execution_id).await?,
            _ => {}
        }
        Ok(())
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn allocate(&self, incoming: &Incoming, execution_id: &str) -> Result<(), StoreError> {
        let (events, _) = read_log(self.store.as_ref(), &AggregateId::from(execution_id), &TYPES).await?;
        let log = Log::of(&events);
        if log.over {
            return Ok(());
        }
        let since = incoming.event.occurred_at.as_ref().and_then(from_timestamp).unwrap_or_else(SystemTime::now);
        let claim = Claim { execution_id: execution_id.to_owned(), priority: log.priority as i32, since };
        match self.claims.insert(&claim).await {
            // A second delivery: the claim is there already.
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => {}
            Err(error) => return Err(error),
        }
        let admission = self.queue().claim(execution_id, log.priority, since);
        self.gauges();
        match admission {
            Admission::Granted => self.announce(execution_id, Some(incoming.trace)).await,
            Admission::Waiting(place) => {
                self.tell_place(execution_id, place, incoming.trace).await?;
                // A slot may have become free since.
                self.dispatch().await
            }
        }
    }

    async fn release(&self, execution_id: &str) -> Result<(), StoreError> {
        self.claims.delete(execution_id).await?;
        self.queue().release(execution_id);
        self.gauges();
        self.dispatch().await
    }

    /// Gives out free slots as long as somebody waits.
    async fn dispatch(&self) -> Result<(), StoreError> {
        loop {
            let Some(next) = self.queue().admit_next() else { return Ok(()) };
            self.gauges();
            if let Err(error) = self.announce(&next.execution_id, None).await {
                self.queue().put_back(&next);
                return Err(error);
            }
        }
    }

    /// Appends that the execution has its slot, once. One that needs it no longer gives it back.
    async fn announce(&self, execution_id: &str, trace: Option<TraceParent>) -> Result<(), StoreError> {
        let accepted = |log: &Log<'_>| {
            (!log.accepted).then(|| ExecutionAccepted {
                execution_id: execution_id.to_owned(),
                queue_position: 0,
                estimated_wait: None,
                priority: log.priority as i32,
                runner: String::new(),
                attempt: 1,
            })
        };
        if self.append_to_open(execution_id, ordinal::ACCEPTED, trace, accepted).await? {
            return Ok(());
        }
        self.claims.delete(execution_id).await?;
        self.queue().release(execution_id);
        Ok(())
    }

    /// Appends the place of an execution that waits, unless it has its slot by now.
    async fn tell_place(&self, execution_id: &str, place: usize, trace: TraceParent) -> Result<(), StoreError> {
        let queued = |log: &Log<'_>| {
            (!log.accepted).then(|| ExecutionQueued {
                execution_id: execution_id.to_owned(),
                position_in_queue: i32::try_from(place).ok(),
                estimated_start_time: None,
                attempt: 1,
            })
        };
        self.append_to_open(execution_id, ordinal::QUEUED, Some(trace), queued).await.map(drop)
    }

    /// Appends what `decide` makes of a log that still needs its slot. Returns whether it does.
    async fn append_to_open<P: Into<Payload>>(
        &self,
        execution_id: &str,
        ordinal: u32,
        trace: Option<TraceParent>,
        decide: impl Fn(&Log<'_>) -> Option<P>,
    ) -> Result<bool, StoreError> {
        let aggregate = AggregateId::from(execution_id);
        loop {
            let (events, head) = read_log(self.store.as_ref(), &aggregate, &TYPES).await?;
            let log = Log::of(&events);
            let Some(allocate) = log.allocate.filter(|_| !log.over) else { return Ok(false) };
            let Some(payload) = decide(&log) else { return Ok(true) };
            let cause = Cause::new(allocate, GROUP);
            let event = trace.map_or(cause, |trace| cause.traced(trace)).derive(ordinal, payload);
            match self.store.append(&aggregate, Expected::Sequence(head), vec![event]).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map(|_| true),
            }
        }
    }

    fn gauges(&self) {
        let (in_use, depth) = {
            let queue = self.queue();
            (queue.in_use(), queue.depth())
        };
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        {
            metrics::gauge!("scheduler_slots_in_use").set(in_use as f64);
            metrics::gauge!("scheduler_queue_depth").set(depth as f64);
        }
    }
}

/// What the scheduler wants to know of a log.
struct Log<'a> {
    priority: QueuePriority,
    allocate: Option<&'a Event>,
    /// Has its slot.
    accepted: bool,
    /// Ended, or its slot was asked back, or it was deleted.
    over: bool,
}

impl<'a> Log<'a> {
    fn of(events: &'a [Arc<Event>]) -> Self {
        let mut log = Log { priority: QueuePriority::Normal, allocate: None, accepted: false, over: events.is_empty() };
        for event in events {
            match &event.payload {
                Some(Payload::ExecutionRequested(request)) => log.priority = priority(request.priority),
                Some(Payload::AllocateResourcesCommand(_)) => log.allocate = Some(event),
                Some(Payload::ExecutionAccepted(_)) => log.accepted = true,
                Some(_) => log.over = true,
                None => {}
            }
        }
        log
    }
}
