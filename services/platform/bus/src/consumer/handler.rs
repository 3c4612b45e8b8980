//! What a service hands to the consumer: groups, their topics and their handlers.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use runmesh_events::{Cause, Event, EventType, GroupName, TraceParent};
use runmesh_store::StoreError;

use crate::Delivery;

/// An event as a handler gets it.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The event.
    pub event: Arc<Event>,
    /// The record that carried it.
    pub delivery: Delivery,
    /// The group that handles it.
    pub group: GroupName,
    /// The trace context of the handling.
    pub trace: TraceParent,
}

impl Incoming {
    /// The event as the cause of those that the handler emits.
    pub fn cause(&self) -> Cause<'_> {
        Cause::new(&self.event, self.group).traced(self.trace)
    }
}

/// Handles a group's events. Those of one key come in order, one at a time; a redelivery has to be harmless.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one event.
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError>;
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The same delivery may succeed a little later.
    Transient,
    /// The same delivery fails each time.
    Permanent,
    /// The record itself is broken.
    Poison,
}

impl Severity {
    /// The severity of this name. Another name is that of a permanent one.
    pub fn parse(name: &str) -> Self {
        [Self::Transient, Self::Poison].into_iter().find(|known| known.as_str() == name).unwrap_or(Self::Permanent)
    }

    /// The name in dead letters and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Poison => "poison",
        }
    }
}

/// Why an event could not be handled.
#[derive(Debug)]
pub struct HandlerError {
    severity: Severity,
    source: Box<dyn Error + Send + Sync>,
}

impl HandlerError {
    /// An error that may go away by itself.
    pub fn transient(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { severity: Severity::Transient, source: source.into() }
    }

    /// An error that stays.
    pub fn permanent(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { severity: Severity::Permanent, source: source.into() }
    }

    /// An error of the record.
    pub fn poison(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { severity: Severity::Poison, source: source.into() }
    }

    /// Whether trying again can help.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// The error and its causes, the outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut chain = vec![self.source.to_string()];
        let mut cause = self.source.source();
        while let Some(error) = cause {
            chain.push(error.to_string());
            cause = error.source();
        }
        chain
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl From<StoreError> for HandlerError {
    fn from(error: StoreError) -> Self {
        match error {
            // Another writer was faster; a new look decides.
            StoreError::Conflict { .. } | StoreError::RevisionMismatch { .. } => Self::transient(error),
            error if error.is_transient() => Self::transient(error),
            error => Self::permanent(error),
        }
    }
}

/// How often a transient error is tried again at once, while its key waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InPlaceRetry {
    /// The number of tries, the first included.
    pub tries: u32,
    /// The wait before the second try. Each further wait is twice the one before.
    pub first_wait: Duration,
}

impl Default for InPlaceRetry {
    /// 5 tries within about 0.3 s.
    fn default() -> Self {
        Self { tries: 5, first_wait: Duration::from_millis(20) }
    }
}

impl InPlaceRetry {
    /// The wait after the try number `tries`. `None`: there is no other try.
    pub fn wait_after(&self, tries: u32) -> Option<Duration> {
        (tries < self.tries).then(|| self.first_wait.saturating_mul(1 << tries.saturating_sub(1).min(16)))
    }
}

/// A consumer group: its name, its topics, and what handles their events.
#[derive(Clone)]
pub struct ConsumerGroup {
    /// The name.
    pub name: GroupName,
    /// The topics.
    pub topics: Vec<EventType>,
    /// What handles the events.
    pub handler: Arc<dyn Handler>,
    /// How many events of different keys are handled at once.
    pub workers: usize,
    /// How often a transient error is tried again at once.
    pub retry: InPlaceRetry,
    /// Whether the handler gets replayed events: yes only where it has no outside effects.
    pub sees_replays: bool,
}

impl ConsumerGroup {
    /// A group with 16 workers, the default retries, and no replays.
    pub fn new(name: GroupName, topics: &[EventType], handler: Arc<dyn Handler>) -> Self {
        Self {
            name,
            topics: topics.to_vec(),
            handler,
            workers: 16,
            retry: InPlaceRetry::default(),
            sees_replays: false,
        }
    }
}

impl fmt::Debug for ConsumerGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerGroup").field("name", &self.name).field("topics", &self.topics).finish_non_exhaustive()
    }
}
