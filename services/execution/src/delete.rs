//! DeleteExecution.

use std::time::Duration;

use async_trait::async_trait;
use runmesh_proto::execution::DeleteExecutionRequest;
use runmesh_store::StoreError;
use tokio::time::timeout;

use crate::{
    error::ExecutionError,
    service::{ExecutionService, execution_id},
    wait,
};

/// How long a delete waits for the last events of an execution that has just ended.
const SETTLE: Duration = Duration::from_secs(5);

/// Something that another service keeps for an execution and removes with it.
#[async_trait]
pub trait Erasure: Send + Sync + 'static {
    /// Removes what is kept for the execution. Nothing to remove is no error.
    async fn erase(&self, execution_id: &str) -> Result<(), StoreError>;
}

pub(crate) async fn delete(service: &ExecutionService, request: DeleteExecutionRequest) -> Result<(), ExecutionError> {
    let id = execution_id(&request.execution_id)?;
    let loaded = service.load(&id).await?;
    if !loaded.log.terminal() {
        return Err(ExecutionError::NotEnded(id.to_string()));
    }
    // Other services still add to a log that is not closed.
    if !loaded.log.closed() {
        timeout(SETTLE, wait::until(service, &id, |log| log.closed()))
            .await
            .map_err(|_| ExecutionError::NotEnded(id.to_string()))??;
    }
    // The log goes last: as long as it is there, the delete can be asked for again.
    erase(service, loaded.aggregate.as_str()).await?;
    service.store().delete_aggregate(&loaded.aggregate).await?;
    // A group, or a rebuild, may have written something again while the log was still there.
    erase(service, loaded.aggregate.as_str()).await?;
    Ok(())
}

/// Removes what is kept of an execution beside its log.
async fn erase(service: &ExecutionService, id: &str) -> Result<(), StoreError> {
    for erasure in service.erasures() {
        erasure.erase(id).await?;
    }
    service.summaries().delete(id).await
}
