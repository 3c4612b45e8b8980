//! Stores the result of each execution that ends.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, EventType, GroupName, Payload, lifecycle, to_timestamp};
use runmesh_proto::{
    event::{ResultFailed, ResultStored, StorageType},
    result::Result as ExecutionResult,
};
use runmesh_store::{DocumentStore, Documents, EventStore, Expected, Placements, ReadModel, Rebuild, StoreError};

use crate::{
    assemble::assemble,
    document::{self, StoredResult},
    service::ResultService,
};

/// The results service's group.
pub const GROUP: GroupName = GroupName::new("result-processor");

/// What the group reads.
pub const TOPICS: [EventType; 4] = lifecycle::TERMINAL;

/// It takes replayed events: a result follows from the log, and what it tells of it has the same ids again.
pub const SEES_REPLAYS: bool = true;

/// The consumer group that stores results.
pub fn consumer_group(service: &ResultService, store: Arc<dyn EventStore>) -> ConsumerGroup {
    let processor = Processor { store, results: service.results().clone() };
    ConsumerGroup { sees_replays: SEES_REPLAYS, ..ConsumerGroup::new(GROUP, &TOPICS, Arc::new(processor)) }
}

struct Processor {
    store: Arc<dyn EventStore>,
    results: ReadModel<StoredResult>,
}

#[async_trait]
impl Handler for Processor {
    async fn handle(&self, incoming: &Incoming) -> Result<(), HandlerError> {
        let aggregate = AggregateId::from(incoming.event.aggregate_id.as_str());
        let execution_id = aggregate.as_str().to_owned();
        let outcome: Payload = match self.keep(&aggregate).await {
            Ok(Some(size_bytes)) => ResultStored {
                storage_path: format!("results/{execution_id}"),
                execution_id,
                storage_type: Some(StorageType::Database as i32),
                size_bytes,
            }
            .into(),
            // It was deleted while this event was on the way.
            Ok(None) => return Ok(()),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                let storage_type = Some(StorageType::Database as i32);
                ResultFailed { execution_id, error: error.to_string(), storage_type }.into()
            }
        };
        self.store.append(&aggregate, Expected::Any, vec![incoming.cause().derive(0, outcome)]).await?;
        Ok(())
    }
}

impl Processor {
    /// Stores the result, once. Returns its size in bytes.
    async fn keep(&self, aggregate: &AggregateId) -> Result<Option<i64>, StoreError> {
        let Some(result) = assemble(&*self.store, aggregate).await? else { return Ok(None) };
        let size = i64::try_from(result.stdout.len() + result.stderr.len()).unwrap_or(i64::MAX);
        for documents in self.results.written().await? {
            insert(documents, result.clone()).await?;
        }
        Ok(Some(size))
    }
}

/// Stores a result, unless there is one.
async fn insert(documents: &Documents<StoredResult>, mut result: ExecutionResult) -> Result<(), StoreError> {
    result.stored_at = Some(to_timestamp(SystemTime::now()));
    match documents.insert(&StoredResult(result)).await {
        Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The results, as what can be built anew from the log.
///
/// # Errors
/// When the collections can't be made.
pub async fn read_model(
    store: Arc<dyn EventStore>,
    documents: Arc<dyn DocumentStore>,
) -> Result<impl Rebuild, StoreError> {
    Ok(Rebuilt { store, results: document::open(documents).await? })
}

struct Rebuilt {
    store: Arc<dyn EventStore>,
    results: ReadModel<StoredResult>,
}

#[async_trait]
impl Rebuild for Rebuilt {
    fn event_types(&self) -> &'static [EventType] {
        &TOPICS
    }

    fn placements(&self) -> &Placements {
        self.results.placements()
    }

    async fn project(&self, aggregate_id: &str) -> Result<u64, StoreError> {
        let (documents, aggregate) = (self.results.beside().await?, AggregateId::from(aggregate_id));
        let head = self.store.head(&aggregate).await?;
        if let Some(result) = assemble(&*self.store, &aggregate).await? {
            insert(documents, result).await?;
        }
        if self.store.head(&aggregate).await? == 0 {
            // It was deleted while this was written.
            documents.delete(aggregate_id).await?;
        }
        Ok(head)
    }
}
