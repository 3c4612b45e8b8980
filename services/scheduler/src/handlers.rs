//! Answers the saga's commands.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, Cause, EventType, GroupName, Payload, from_timestamp, lifecycle};
use runmesh_proto::event::{ExecutionAccepted, ExecutionQueued, QueuePriority};
use runmesh_store::{DocumentStore, Documents, EventStore, Expected, PageQuery, StoreError, read_log};
use serde::{Deserialize, Serialize};

use crate::{
    claim::{BY_TIME, Claim},
    queue::{Admission, Queue},
};

/// The scheduler's group.
pub const GROUP: GroupName = GroupName::new("scheduler");

/// What the scheduler reads of a log.
const TYPES: [EventType; 7] = [
    EventType::ExecutionRequested,
    EventType::AllocateResourcesCommand,
    EventType::ReleaseResourcesCommand,
    lifecycle::TERMINAL[0],
    lifecycle::TERMINAL[1],
    lifecycle::TERMINAL[2],
    lifecycle::TERMINAL[3],
];

/// Settings of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// How many executions run at once. 0: twice the number of processor cores.
    pub slots: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { slots: 0 }
    }
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
    /// The scheduler with every claim as it was before the restart.
    ///
    /// # Errors
    /// When the claims can't be read.
    pub async fn build(
        config: &SchedulerConfig,
        store: Arc<dyn EventStore>,
        documents: Arc<dyn DocumentStore>,
    ) -> Result<Self, SchedulerError> {
        let claims: Documents<Claim> = Documents::open(documents).await?;
        let mut queue = Queue::new(config.effective_slots());
        let mut query = PageQuery { index: BY_TIME, limit: 1_000, ..PageQuery::default() };
        loop {
            let page = claims.page(query.clone()).await?;
            for claim in page.documents.iter().map(|versioned| &versioned.document) {
                if claim.granted {
                    queue.restore_granted(&claim.execution_id);
                } else {
                    queue.wait(&claim.execution_id, priority(claim.priority), claim.since);
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        Ok(Self { inner: Arc::new(Inner { store, claims, queue: Mutex::new(queue) }) })
    }

    /// The scheduler's consumer group.
    pub fn consumer_group(&self) -> ConsumerGroup {
        let topics = [EventType::AllocateResourcesCommand, EventType::ReleaseResourcesCommand];
        ConsumerGroup::new(GROUP, &topics, Arc::new(self.clone()))
    }

    /// Finishes what a crash may have left half done: slots that were granted but not announced, free slots.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn recover(&self) -> Result<(), SchedulerError> {
        let mut query = PageQuery { index: BY_TIME, limit: 1_000, ..PageQuery::default() };
        loop {
            let page = self.inner.claims.page(query.clone()).await?;
            for claim in page.documents.into_iter().map(|versioned| versioned.document) {
                if claim.granted {
                    self.inner.announce(&claim.execution_id).await?;
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        self.inner.dispatch().await?;
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
        let log = Log::read(self.store.as_ref(), execution_id).await?;
        if log.over {
            return Ok(());
        }
        let since = incoming.event.occurred_at.as_ref().and_then(from_timestamp).unwrap_or_else(SystemTime::now);
        let admission = self.queue().claim(execution_id, log.priority, since);
        let granted = admission == Admission::Granted;
        let claim = Claim { execution_id: execution_id.to_owned(), priority: log.priority as i32, since, granted };
        match self.claims.insert(&claim).await {
            // A second delivery: the claim is there already.
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => {}
            Err(error) => {
                // The delivery comes again and claims again.
                self.queue().release(execution_id);
                return Err(error);
            }
        }
        self.gauges();
        match admission {
            Admission::Granted => self.announce(execution_id).await,
            Admission::Waiting(place) => {
                let queued = ExecutionQueued {
                    execution_id: execution_id.to_owned(),
                    position_in_queue: i32::try_from(place).ok(),
                    estimated_start_time: None,
                };
                let event = incoming.cause().derive(1, queued);
                let aggregate = AggregateId::from(execution_id);
                self.store.append(&aggregate, Expected::Any, vec![event]).await?;
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
            let Some(next) = self.queue().next() else { return Ok(()) };
            if let Err(error) = self.grant(&next.execution_id).await {
                self.queue().put_back(&next);
                return Err(error);
            }
        }
    }

    async fn grant(&self, execution_id: &str) -> Result<(), StoreError> {
        if let Some(known) = self.claims.get(execution_id).await? {
            let claim = Claim { granted: true, ..known.document };
            self.claims.update(&claim, known.revision).await?;
        }
        self.gauges();
        self.announce(execution_id).await
    }

    /// Appends that the execution has its slot, once.
    async fn announce(&self, execution_id: &str) -> Result<(), StoreError> {
        let aggregate = AggregateId::from(execution_id);
        loop {
            let (events, head) = read_log(self.store.as_ref(), &aggregate, &TYPES).await?;
            let log = Log::of(&events);
            let Some(allocate) = log.allocate.filter(|_| !log.over) else { return Ok(()) };
            let accepted = ExecutionAccepted {
                execution_id: execution_id.to_owned(),
                queue_position: 0,
                estimated_wait: None,
                priority: log.priority as i32,
            };
            let event = Cause::new(allocate, GROUP).derive(0, accepted);
            match self.store.append(&aggregate, Expected::Sequence(head), vec![event]).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map(drop),
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
    allocate: Option<&'a runmesh_events::Event>,
    /// Ended, or its slot was asked back.
    over: bool,
}

impl Log<'_> {
    async fn read(store: &dyn EventStore, execution_id: &str) -> Result<Log<'static>, StoreError> {
        let (events, _) = read_log(store, &AggregateId::from(execution_id), &TYPES).await?;
        Ok(Log { allocate: None, ..Log::of(&events) })
    }
}

impl<'a> Log<'a> {
    fn of(events: &'a [Arc<runmesh_events::Event>]) -> Self {
        let mut log = Log { priority: QueuePriority::Normal, allocate: None, over: events.is_empty() };
        for event in events {
            match &event.payload {
                Some(Payload::ExecutionRequested(request)) => log.priority = priority(request.priority),
                Some(Payload::AllocateResourcesCommand(_)) => log.allocate = Some(event),
                Some(_) => log.over = true,
                None => {}
            }
        }
        log
    }
}
