//! WaitExecution.

use std::{pin::pin, time::Duration};

use futures::TryStreamExt as _;
use runmesh_events::{ExecutionId, from_duration};
use runmesh_proto::execution::{Execution, WaitExecutionRequest};
use runmesh_store::follow;
use tokio::time::timeout;

use crate::{
    error::ExecutionError,
    service::{ExecutionService, Loaded, execution_id},
    state::ExecutionLog,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) async fn wait(
    service: &ExecutionService,
    request: WaitExecutionRequest,
) -> Result<Execution, ExecutionError> {
    let id = execution_id(&request.execution_id)?;
    let bound = match request.timeout.as_ref().map(from_duration) {
        None => DEFAULT_TIMEOUT,
        Some(Some(bound)) if bound <= MAX_TIMEOUT => bound,
        Some(_) => {
            let words = format!("has to be from 0 to {} s", MAX_TIMEOUT.as_secs());
            return Err(ExecutionError::field("timeout", words));
        }
    };
    let waiting = async {
        tokio::select! {
            result = timeout(bound, until(service, &id, ExecutionLog::terminal)) => result.unwrap_or(Ok(())),
            () = service.shutdown().cancelled() => Ok(()),
        }
    };
    waiting.await?;
    Ok(service.load(&id).await?.execution())
}

/// Waits until the execution's log satisfies `done`.
pub(crate) async fn until(
    service: &ExecutionService,
    id: &ExecutionId,
    done: impl Fn(&ExecutionLog) -> bool,
) -> Result<(), ExecutionError> {
    let Loaded { aggregate, mut log, head, .. } = service.load(id).await?;
    let mut events = pin!(follow(service.shared_store(), aggregate, head));
    while !done(&log) {
        match events.try_next().await? {
            Some(event) => log.apply(&event),
            None => break,
        }
    }
    Ok(())
}
