//! WatchExecution: the log from a cursor on, then live, then the end.

use std::{pin::pin, sync::Arc};

use async_stream::try_stream;
use futures::{Stream, TryStreamExt as _};
use runmesh_events::{Catalog, Event, ExecutionId};
use runmesh_proto::execution::{
    Execution, ExecutionEnd, WatchExecutionRequest, WatchExecutionResponse, watch_execution_response::Item,
};
use runmesh_rpc::status;
use runmesh_store::{Cursor, follow, read_log};
use tonic::Status;

use crate::{
    error::ExecutionError,
    service::{ExecutionService, execution_id},
    state::{ExecutionLog, TYPES},
};

/// A step of a log's stream.
pub(crate) enum Step {
    /// The next event.
    Event(Arc<Event>),
    /// The log is complete: nothing follows.
    End(Box<Execution>),
}

pub(crate) async fn watch(
    service: &ExecutionService,
    request: WatchExecutionRequest,
) -> Result<impl Stream<Item = Result<WatchExecutionResponse, Status>> + Send + use<>, ExecutionError> {
    let id = execution_id(&request.execution_id)?;
    let steps = steps(service, &id, parse(&request.cursor)?).await?;
    Ok(steps.try_filter_map(async |(cursor, step)| {
        let item = match step {
            Step::Event(event) => {
                let visible = event.payload.as_ref().is_some_and(|p| Catalog::get().streamable(p.event_type()));
                visible.then(|| Item::Event(event.as_ref().clone()))
            }
            Step::End(execution) => Some(Item::End(ExecutionEnd { execution: Some(*execution) })),
        };
        Ok(item.map(|item| WatchExecutionResponse { cursor, item: Some(item) }))
    }))
}

/// Reads a cursor from a request.
pub(crate) fn parse(text: &str) -> Result<Cursor, ExecutionError> {
    text.parse().map_err(|error| ExecutionError::field("cursor", format!("{error}")))
}

/// The whole log of an execution from a cursor on, then live, then its end; each step with the cursor behind it.
pub(crate) async fn steps(
    service: &ExecutionService,
    id: &ExecutionId,
    cursor: Cursor,
) -> Result<impl Stream<Item = Result<(String, Step), Status>> + Send + use<>, ExecutionError> {
    let aggregate = id.aggregate();
    // Before the log is read: if it is deleted from here on, the follower is told.
    let followed = follow(service.shared_store(), aggregate.clone(), cursor.sequence);
    let (events, head) = read_log(service.store(), &aggregate, &TYPES).await?;
    let whole = ExecutionLog::of(events.iter().map(AsRef::as_ref));
    if !whole.exists() {
        return Err(ExecutionError::NotFound(id.to_string()));
    }
    if cursor.sequence > head || (cursor.ended && whole.closed_at() != Some(cursor.sequence)) {
        return Err(ExecutionError::BeyondEnd(format!("{cursor} lies beyond the log, which is at {head}")));
    }
    // What the client has seen already, so that the fold knows the end when it comes.
    let seen = events.iter().map(AsRef::as_ref).filter(|event| event.sequence <= cursor.sequence);
    let mut log = ExecutionLog::of(seen);
    let shutdown = service.shutdown().clone();
    Ok(try_stream! {
        if cursor.ended {
            return;
        }
        let mut events = pin!(followed);
        let mut sequence = cursor.sequence;
        while !log.closed() {
            let Some(next) = shutdown.run_until_cancelled(events.try_next()).await else {
                Err(status::shutting_down())?;
                return;
            };
            let Some(event) = next.map_err(ExecutionError::from)? else { return };
            log.apply(&event);
            sequence = event.sequence;
            yield (Cursor { sequence, ended: false }.to_string(), Step::Event(event));
        }
        let execution = Execution { last_sequence: sequence, ..log.summary() };
        yield (Cursor { sequence, ended: true }.to_string(), Step::End(Box::new(execution)));
    })
}
