//! Stores the result of each execution that ends.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use runmesh_bus::{ConsumerGroup, Handler, HandlerError, Incoming};
use runmesh_events::{AggregateId, EventType, GroupName, Payload, lifecycle, to_timestamp};
use runmesh_proto::event::{ResultFailed, ResultStored, StorageType};
use runmesh_store::{Documents, EventStore, Expected, StoreError};

use crate::{assemble::assemble, document::StoredResult, service::ResultService};

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
    results: Documents<StoredResult>,
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
        let Some(mut result) = assemble(self.store.as_ref(), aggregate).await? else { return Ok(None) };
        let size = i64::try_from(result.stdout.len() + result.stderr.len()).unwrap_or(i64::MAX);
        result.stored_at = Some(to_timestamp(SystemTime::now()));
        match self.results.insert(&StoredResult(result)).await {
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(Some(size)),
            Err(error) => Err(error),
        }
    }
}
