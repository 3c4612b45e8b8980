//! CancelSaga.

use runmesh_events::{TraceParent, lifecycle};
use runmesh_proto::saga::{CancelSagaRequest, Saga};
use runmesh_rpc::Caller;
use runmesh_store::{Expected, StoreError};

use crate::{error::SagaError, machine::Cancellable, service::SagaService};

/// The producer's name in events that a call records.
const PRODUCER: &str = "saga";

/// How often a cancel looks again when the log has moved on in between.
const TRIES: usize = 100;

pub(crate) async fn cancel(
    service: &SagaService,
    caller: &Caller,
    trace: &TraceParent,
    request: CancelSagaRequest,
) -> Result<Saga, SagaError> {
    if request.reason.chars().count() > lifecycle::MAX_CANCEL_REASON {
        let words = format!("has more than {} characters", lifecycle::MAX_CANCEL_REASON);
        return Err(SagaError::field("reason", words));
    }
    let aggregate = service.execution_of(&request.saga_id).await?;
    for _ in 0..TRIES {
        let loaded = service.load(&aggregate).await?;
        let Some(first) = loaded.first() else { return Err(SagaError::NotFound(request.saga_id)) };
        let runs = match loaded.log().cancellable() {
            Cancellable::Already => return Ok(loaded.view().saga().clone()),
            Cancellable::Ended => return Err(SagaError::Ended(aggregate.to_string())),
            Cancellable::Open { runs } => runs,
        };
        let event = lifecycle::cancel(first, PRODUCER, trace, &caller.user_id, &request.reason, runs);
        // If the run was asked for, or ended, in the meantime, the log has moved on and this is looked at anew.
        match service.store().append(&aggregate, Expected::Sequence(loaded.head), vec![event]).await {
            Ok(_) => return Ok(service.load(&aggregate).await?.view().saga().clone()),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(SagaError::Contended)
}
