//! A result from a log.

use bytes::BytesMut;
use runmesh_events::{AggregateId, Event, EventType, Payload, lifecycle};
use runmesh_proto::{event::OutputStream, execution::ExecutionState, result::Result as ExecutionResult};
use runmesh_store::{EventStore, StoreError};

/// How much of each stream a result keeps.
const KEPT_BYTES: usize = 1 << 20;

/// What is read of a log.
const TYPES: [EventType; 5] = [
    EventType::ExecutionOutput,
    lifecycle::TERMINAL[0],
    lifecycle::TERMINAL[1],
    lifecycle::TERMINAL[2],
    lifecycle::TERMINAL[3],
];

/// How many events one read brings.
const READ: usize = 64;

/// The result of the execution whose log this is. `None`: it has not ended.
pub(crate) async fn assemble(
    store: &dyn EventStore,
    aggregate: &AggregateId,
) -> Result<Option<ExecutionResult>, StoreError> {
    let mut result = ExecutionResult { execution_id: aggregate.as_str().to_owned(), ..ExecutionResult::default() };
    let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
    let mut after = 0;
    loop {
        let events = store.read(aggregate, after, READ, &TYPES).await?;
        for event in &events {
            after = event.sequence;
            if let Some(Payload::ExecutionOutput(output)) = &event.payload {
                let (kept, size) = match output.stream() {
                    OutputStream::Stderr => (&mut stderr, &mut result.stderr_size_bytes),
                    _ => (&mut stdout, &mut result.stdout_size_bytes),
                };
                let room = KEPT_BYTES.saturating_sub(kept.len()).min(output.data.len());
                kept.extend_from_slice(&output.data[..room]);
                *size += i64::try_from(output.data.len()).unwrap_or_default();
            } else {
                verdict(&mut result, event);
            }
        }
        if events.len() < READ {
            break;
        }
    }
    (result.stdout, result.stderr) = (stdout.freeze(), stderr.freeze());
    Ok(Some(result).filter(|result| result.state() != ExecutionState::Unspecified))
}

fn verdict(result: &mut ExecutionResult, event: &Event) {
    match &event.payload {
        Some(Payload::ExecutionCompleted(ended)) => {
            result.set_state(ExecutionState::Completed);
            result.exit_code = Some(ended.exit_code);
            result.resource_usage = ended.resource_usage;
            result.receipt.clone_from(&ended.receipt);
        }
        Some(Payload::ExecutionFailed(ended)) => {
            result.set_state(ExecutionState::Failed);
            result.exit_code = Some(ended.exit_code).filter(|code| *code >= 0);
            result.error_type = ended.error_type;
            result.error_message = ended.error_message.clone();
            result.resource_usage = ended.resource_usage;
            result.receipt.clone_from(&ended.receipt);
        }
        Some(Payload::ExecutionTimeout(ended)) => {
            result.set_state(ExecutionState::TimedOut);
            result.error_message = "the wall-clock limit was reached".to_owned();
            result.resource_usage = ended.resource_usage;
            result.receipt.clone_from(&ended.receipt);
        }
        Some(Payload::ExecutionCancelled(ended)) => {
            result.set_state(ExecutionState::Cancelled);
            result.error_message = ended.reason.clone();
            result.receipt.clone_from(&ended.receipt);
        }
        _ => {}
    }
}
