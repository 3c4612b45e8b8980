//! CancelExecution.

use runmesh_events::{NewEvent, TraceParent};
use runmesh_proto::{
    event::{DeletePodCommand, ExecutionCancelled},
    execution::{CancelExecutionRequest, Execution, ExecutionState},
};
use runmesh_rpc::Caller;
use runmesh_store::{Expected, StoreError};

use crate::{
    error::ExecutionError,
    service::{ExecutionService, Loaded, PRODUCER, execution_id},
};

/// The greatest number of characters of a reason.
const MAX_REASON: usize = 1_024;

/// How often a cancel looks again when the log has moved on in between.
const TRIES: usize = 100;

pub(crate) async fn cancel(
    service: &ExecutionService,
    caller: &Caller,
    trace: &TraceParent,
    request: CancelExecutionRequest,
) -> Result<Execution, ExecutionError> {
    let id = execution_id(&request.execution_id)?;
    if request.reason.chars().count() > MAX_REASON {
        return Err(ExecutionError::field("reason", format!("has more than {MAX_REASON} characters")));
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
    let execution_id = loaded.aggregate.as_str().to_owned();
    let event = if loaded.log.run_asked_for() {
        // The runner ends the script and then records how; the request alone is recorded here, once.
        let command = DeletePodCommand {
            saga_id: String::new(),
            execution_id: execution_id.clone(),
            reason: reason.to_owned(),
            pod_name: None,
            namespace: None,
        };
        NewEvent::within(&loaded.first, PRODUCER, trace, command).once("cancel", &execution_id)
    } else {
        // Nothing runs yet.
        let cancelled = ExecutionCancelled {
            execution_id,
            reason: reason.to_owned(),
            cancelled_by: Some(caller.user_id.clone()).filter(|user| !user.is_empty()),
            force_terminated: false,
            cases: None,
            receipt: Vec::new(),
        };
        NewEvent::within(&loaded.first, PRODUCER, trace, cancelled)
    };
    // If the run was asked for, or ended, in the meantime, the log has moved on and this is looked at anew.
    service.store().append(&loaded.aggregate, Expected::Sequence(loaded.head), vec![event]).await.map(drop)
}
