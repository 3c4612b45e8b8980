//! The group that keeps the documents of lists up to date.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, EventType, GroupName};
use runmesh_store::{DocumentStore, Documents, EventStore, Placements, ReadModel, Rebuild, StoreError, read_log};

use crate::{
    document::{self, Summary},
    service::ExecutionService,
    state::{ExecutionLog, TYPES},
};

/// The group that keeps the documents of lists up to date.
pub const GROUP: GroupName = GroupName::new("execution-coordinator");

/// How many executions' newest sequences are kept in mind.
const REMEMBERED: usize = 4_096;

/// What the group reads: the events that change what a list shows. Others come between two of these and are taken into
/// account with the next.
pub const TOPICS: [EventType; 11] = [
    EventType::ExecutionRequested,
    EventType::ExecutionQueued,
    EventType::ExecutionStarted,
    EventType::DeletePodCommand,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    // The saga's end is the last event of a log.
    EventType::SagaCompleted,
    EventType::SagaFailed,
    EventType::SagaCancelled,
];

/// It takes replayed events: a document follows from the log, however often it is made.
pub const SEES_REPLAYS: bool = true;

/// The consumer group of the execution service.
pub fn consumer_group(service: &ExecutionService) -> ConsumerGroup {
    let projection = Projection { service: service.clone(), seen: Mutex::default() };
    ConsumerGroup { sees_replays: SEES_REPLAYS, ..ConsumerGroup::new(GROUP, &TOPICS, Arc::new(projection)) }
}

struct Projection {
    service: ExecutionService,
    /// The sequence that the document of an execution has taken into account. Losing it costs a read.
    seen: Mutex<HashMap<String, u64>>,
}

#[async_trait]
impl Handler for Projection {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        let event = &incoming.event;
        let seen = |projection: &Self| projection.seen.lock().ok()?.get(&event.aggregate_id).copied();
        // The first event begins a new log, maybe of an id that was in use before.
        if event.sequence > 1 && seen(self).is_some_and(|sequence| sequence >= event.sequence) {
            return Ok(());
        }
        let sequence = project(&self.service, &event.aggregate_id).await?;
        if let Ok(mut seen) = self.seen.lock() {
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
            seen.insert(event.aggregate_id.clone(), sequence);
        }
        Ok(())
    }
}

/// Brings the document of an execution up to its log. Returns the sequence that it has taken into account.
pub(crate) async fn project(service: &ExecutionService, execution_id: &str) -> Result<u64, StoreError> {
    let mut sequence = u64::MAX;
    for documents in service.summaries().written().await? {
        sequence = sequence.min(project_into(documents, service.store(), execution_id).await?);
    }
    Ok(sequence)
}

async fn project_into(
    documents: &Documents<Summary>,
    store: &dyn EventStore,
    execution_id: &str,
) -> Result<u64, StoreError> {
    loop {
        match try_project(documents, store, execution_id).await {
            // The call that created it and the group write the same document; whoever is second looks again.
            Err(StoreError::RevisionMismatch { .. }) => {}
            other => return other,
        }
    }
}

async fn try_project(
    documents: &Documents<Summary>,
    store: &dyn EventStore,
    execution_id: &str,
) -> Result<u64, StoreError> {
    let aggregate = AggregateId::from(execution_id);
    let (events, head) = read_log(store, &aggregate, &TYPES).await?;
    let log = ExecutionLog::of(events.iter().map(AsRef::as_ref));
    if !log.exists() {
        // It was deleted while its events were on the way.
        documents.delete(execution_id).await?;
        return Ok(head);
    }
    let summary = Summary(log.summary());
    match documents.get(execution_id).await? {
        None => documents.insert(&summary).await?,
        Some(known) if known.document.0.last_sequence >= summary.0.last_sequence => known.revision,
        Some(known) => documents.update(&summary, known.revision).await?,
    };
    if store.head(&aggregate).await? == 0 {
        // It was deleted while this was written.
        documents.delete(execution_id).await?;
    }
    Ok(head)
}

/// The documents of lists, as what can be built anew from the log.
///
/// # Errors
/// When the collections can't be made.
pub async fn read_model(
    store: Arc<dyn EventStore>,
    documents: Arc<dyn DocumentStore>,
) -> Result<impl Rebuild, StoreError> {
    Ok(Rebuilt { store, summaries: document::open(documents).await? })
}

struct Rebuilt {
    store: Arc<dyn EventStore>,
    summaries: ReadModel<Summary>,
}

#[async_trait]
impl Rebuild for Rebuilt {
    fn event_types(&self) -> &'static [EventType] {
        &TOPICS
    }

    fn placements(&self) -> &Placements {
        self.summaries.placements()
    }

    async fn project(&self, aggregate_id: &str) -> Result<u64, StoreError> {
        project_into(self.summaries.beside().await?, &*self.store, aggregate_id).await
    }
}
