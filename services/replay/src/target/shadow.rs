//! Executions again, each compared with what it was.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use runmesh_events::{Event, EventType};
use runmesh_proto::execution::Execution;
use runmesh_store::{Documents, EventStore, StoreError};

use super::{SendError, Target, rerun::Reruns};
use crate::shadow::{ComparisonDocument, Outputs, Tolerance, compare};

/// The target `shadow`.
#[derive(Clone)]
pub(super) struct ShadowTarget {
    pub(super) reruns: Reruns,
    pub(super) replay_id: String,
    pub(super) tolerance: Tolerance,
    pub(super) events: Arc<dyn EventStore>,
    pub(super) comparisons: Documents<ComparisonDocument>,
}

impl ShadowTarget {
    async fn shadow(&self, execution_id: &str) -> Result<(), SendError> {
        let id = ComparisonDocument::id_of(&self.replay_id, execution_id);
        if self.comparisons.get(&id).await?.is_some() {
            // A crash came before the checkpoint.
            return Ok(());
        }
        let original = self.reruns.get(execution_id).await?;
        let rerun = self.reruns.ask(execution_id).await?;
        let rerun = self.reruns.wait(&rerun.execution_id).await?;
        let outputs = async |execution: &Execution| {
            let read = Outputs::read(self.events.as_ref(), &execution.execution_id).await;
            read.map_err(SendError::from)
        };
        let (before, again) = (outputs(&original).await?, outputs(&rerun).await?);
        let compared = compare((&original, &before), (&rerun, &again), self.tolerance);
        let document = ComparisonDocument::new(&self.replay_id, execution_id, &compared);
        match self.comparisons.insert(&document).await {
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Target for ShadowTarget {
    fn wants(&self, event_type: EventType) -> bool {
        event_type == EventType::ExecutionRequested
    }

    async fn send(&mut self, events: &[Arc<Event>]) -> Vec<Result<(), SendError>> {
        let compared: Vec<_> = events
            .iter()
            .map(|event| {
                let (target, id) = (self.clone(), event.aggregate_id.clone());
                async move { target.shadow(&id).await }
            })
            .collect();
        stream::iter(compared).buffered(self.reruns.parallel).collect().await
    }
}
