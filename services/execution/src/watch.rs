//! WatchExecution: the log from a cursor on, then live, then the end.

use std::pin::pin;

use async_stream::try_stream;
use futures::{Stream, TryStreamExt as _};
use runmesh_events::Catalog;
use runmesh_proto::execution::{
    Execution, ExecutionEnd, WatchExecutionRequest, WatchExecutionResponse, watch_execution_response::Item,
};
use runmesh_rpc::status;
use runmesh_store::{follow, read_log};
use tonic::Status;

use crate::{
    error::ExecutionError,
    service::{ExecutionService, execution_id},
    state::{ExecutionLog, TYPES},
};

/// How long a client should wait before it watches again at another node.
const RECONNECT_AFTER: std::time::Duration = std::time::Duration::from_millis(500);

/// A place in an execution's stream. As text: the sequence of the last event seen, with `.end` once the end was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    sequence: u64,
    ended: bool,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self { sequence: 0, ended: false });
        }
        let (number, ended) = match text.strip_suffix(".end") {
            Some(number) => (number, true),
            None => (text, false),
        };
        let canonical = number.bytes().all(|b| b.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
        Some(Self { sequence: number.parse().ok().filter(|_| canonical)?, ended })
    }

    fn event(sequence: u64) -> String {
        sequence.to_string()
    }

    fn end(sequence: u64) -> String {
        format!("{sequence}.end")
    }
}

pub(crate) async fn watch(
    service: &ExecutionService,
    request: WatchExecutionRequest,
) -> Result<impl Stream<Item = Result<WatchExecutionResponse, Status>> + Send + use<>, ExecutionError> {
    let id = execution_id(&request.execution_id)?;
    let cursor = Cursor::parse(&request.cursor)
        .ok_or_else(|| ExecutionError::field("cursor", format!("{:?} is not a cursor", request.cursor)))?;
    let aggregate = id.aggregate();
    // Before the log is read: if it is deleted from here on, the follower is told.
    let followed = follow(service.shared_store(), aggregate.clone(), cursor.sequence);
    let (events, head) = read_log(service.store(), &aggregate, &TYPES).await?;
    let whole = ExecutionLog::of(events.iter().map(AsRef::as_ref));
    if !whole.exists() {
        return Err(ExecutionError::NotFound(id.to_string()));
    }
    if cursor.sequence > head || (cursor.ended && whole.closed_at() != Some(cursor.sequence)) {
        return Err(ExecutionError::BeyondEnd(format!("{} lies beyond the log, which is at {head}", request.cursor)));
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
                Err(status::unavailable("this node shuts down; watch again with the last cursor", RECONNECT_AFTER))?;
                return;
            };
            let Some(event) = next.map_err(ExecutionError::from)? else { return };
            log.apply(&event);
            sequence = event.sequence;
            let visible = event.payload.as_ref().is_some_and(|p| Catalog::get().streamable(p.event_type()));
            if visible {
                let event = event.as_ref().clone();
                yield WatchExecutionResponse { cursor: Cursor::event(sequence), item: Some(Item::Event(event)) };
            }
        }
        let execution = Execution { last_sequence: sequence, ..log.summary() };
        let end = ExecutionEnd { execution: Some(execution) };
        yield WatchExecutionResponse { cursor: Cursor::end(sequence), item: Some(Item::End(end)) };
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_have_one_spelling() {
        assert_eq!(Cursor::parse(""), Some(Cursor { sequence: 0, ended: false }));
        assert_eq!(Cursor::parse("17"), Some(Cursor { sequence: 17, ended: false }));
        assert_eq!(Cursor::parse(&Cursor::end(17)), Some(Cursor { sequence: 17, ended: true }));
        for bad in ["x", "-1", "+1", "01", ".end", "1.ended", "1 ", "99999999999999999999999"] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }
}
