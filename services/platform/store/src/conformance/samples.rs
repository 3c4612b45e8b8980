//! Events and documents to store.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use runmesh_events::{AggregateId, Event, EventType, NewEvent, Payload, TraceParent};
use runmesh_proto::event::{ExecutionStarted, PodCreated};
use serde::{Deserialize, Serialize};

use super::Harness;
use crate::{Appended, Document, Documents, EventStore, Expected, Index, IndexValue, StoreError};

/// A new event.
pub fn event(text: impl ToString) -> NewEvent {
    event_of(EventType::ExecutionStarted, text)
}

/// A new event of the type `execution_started` or `pod_created`.
pub fn event_of(event_type: EventType, text: impl ToString) -> NewEvent {
    let pod_name = text.to_string();
    let payload: Payload = match event_type {
        EventType::ExecutionStarted => ExecutionStarted { pod_name, ..Default::default() }.into(),
        EventType::PodCreated => PodCreated { pod_name, ..Default::default() }.into(),
        other => panic!("no sample of {other:?}"),
    };
    NewEvent::root("conformance", "user-1", &TraceParent::new_root(), payload)
}

/// Appends, whatever the aggregate's sequence.
pub async fn append(store: &dyn EventStore, aggregate: &str, events: Vec<NewEvent>) -> Appended {
    store.append(&AggregateId::from(aggregate), Expected::Any, events).await.unwrap()
}

/// The sequences of events.
pub fn sequences(events: &[Arc<Event>]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

/// A document with an index over two fields and one over one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The id.
    pub id: String,
    /// A text field.
    pub owner: String,
    /// A number field.
    pub priority: i64,
    /// When it is due, in milliseconds since 1970.
    pub due: Option<u64>,
}

impl Job {
    /// A job that is never due.
    pub fn new(id: impl ToString, owner: &str, priority: i64) -> Self {
        Self { id: id.to_string(), owner: owner.to_owned(), priority, due: None }
    }

    /// The same, due at a time.
    #[must_use]
    pub fn due_at(self, due: u64) -> Self {
        Self { due: Some(due), ..self }
    }
}

impl Document for Job {
    const COLLECTION: &'static str = "conformance_jobs";
    const INDEXES: &'static [Index] = &[
        Index { name: "by_owner", fields: &["owner", "priority"] },
        Index { name: "by_priority", fields: &["priority"] },
    ];

    const COUNTED: &'static [&'static str] = &["by_owner"];

    fn id(&self) -> String {
        self.id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("owner", self.owner.as_str().into()), ("priority", self.priority.into())]
    }

    fn due(&self) -> Option<SystemTime> {
        self.due.map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(error.to_string()))
    }
}

/// A job as it was kept before it had owners and was counted by them.
#[derive(Debug, Clone)]
pub struct OldJob(pub Job);

impl Document for OldJob {
    const COLLECTION: &'static str = Job::COLLECTION;
    const INDEXES: &'static [Index] = &[Index { name: "by_priority", fields: &["priority"] }];

    fn id(&self) -> String {
        self.0.id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("priority", self.0.priority.into())]
    }

    fn due(&self) -> Option<SystemTime> {
        self.0.due()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Job::decode(bytes).map(Self)
    }
}

/// The collection of jobs.
pub async fn jobs<H: Harness>(harness: &H) -> Documents<Job> {
    Documents::open(harness.documents()).await.unwrap()
}
