//! CancelExecution.

use runmesh_events::{TraceParent, lifecycle};
use runmesh_proto::execution::{CancelExecutionRequest, Execution, ExecutionState};
use runmesh_rpc::Caller;
use runmesh_store::{Expected, StoreError};

use crate::{
    error::ExecutionError,
    service::{ExecutionService, Loaded, PRODUCER, execution_id},
};

/// How often a cancel looks again when the log has moved on in between.
const TRIES: usize = 100;

pub(crate) async fn cancel(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    request: CancelExecutionRequest,
) -> Result<Execution, ExecutionError> {
    let id = execution_id(&request.execution_id)?;
    if request.reason.chars().count() > lifecycle::MAX_CANCEL_REASON {
        let words = format!("has more than {} characters", lifecycle::MAX_CANCEL_REASON);
        return Err(ExecutionError::field("reason", words));
    }
    for _ in 0..TRIES {
        let loaded = service.load(&id).await?;
        if loaded.log.execution().state() == ExecutionState::Cancelled || loaded.log.cancel_asked_for() {
            return Ok(loaded.execution());
        }
        if loaded.log.terminal() {
            return Err(ExecutionError::Ended(id.to_string()));
        }
        match record(service, caller, trace, &request.reason, &loaded).await {
            Ok(()) => return Ok(service.load(&id).await?.execution()),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ExecutionError::Contended)
}

async fn record(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    reason: &str,
    loaded: &Loaded,
) -> Result<(), StoreError> {
    let runs = loaded.log.run_asked_for();
    let event = lifecycle::cancel(&loaded.first, PRODUCER, trace, &caller.user_id, reason, runs);
    // If the run was asked for, or ended, in the meantime, the log has moved on and this is looked at anew.
    service.store().append(&loaded.aggregate, Expected::Sequence(loaded.head), vec![event]).await.map(drop)
}
