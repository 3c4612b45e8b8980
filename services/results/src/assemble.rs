//! A result from a log.

use bytes::{Bytes, BytesMut};
use runmesh_events::{AggregateId, Event, EventType, Payload, lifecycle};
use runmesh_proto::{
    event::{CaseResult, ExecutionOutput, ExecutionStep, OutputStream},
    execution::ExecutionState,
    result::Result as ExecutionResult,
};
use runmesh_store::{EventStore, StoreError};

/// How much of each stream a result keeps.
const KEPT_BYTES: usize = 1 << 20;

/// What is read of a log.
const TYPES: [EventType; 8] = [
    EventType::ExecutionOutput,
    EventType::ExecutionStarted,
    EventType::ExecutionRunning,
    EventType::PodTerminated,
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
    let (mut run, mut compile) = (Streams::default(), Streams::default());
    let mut after = 0;
    loop {
        let events = store.read(aggregate, after, READ, &TYPES).await?;
        for event in &events {
            after = event.sequence;
            match &event.payload {
                Some(Payload::ExecutionOutput(output)) if output.step() == ExecutionStep::Compile => {
                    compile.keep(output);
                }
                Some(Payload::ExecutionOutput(output)) => run.keep(output),
                // What an attempt wrote that was lost is no part of the result of the next.
                Some(Payload::PodTerminated(ended)) if ended.lost_attempt > 0 => {
                    (run, compile) = (Streams::default(), Streams::default());
                }
                _ => apply(&mut result, event),
            }
        }
        if events.len() < READ {
            break;
        }
    }
    (result.stdout_size_bytes, result.stderr_size_bytes) = (run.stdout.size, run.stderr.size);
    (result.stdout, result.stderr) = (run.stdout.kept.freeze(), run.stderr.kept.freeze());
    (result.compile_stdout, result.compile_stderr) = (compile.stdout.kept.freeze(), compile.stderr.kept.freeze());
    Ok(Some(result).filter(|result| result.state() != ExecutionState::Unspecified))
}

/// The two streams of one step.
#[derive(Debug, Default)]
struct Streams {
    stdout: Kept,
    stderr: Kept,
}

/// The first bytes of a stream, and the size of all of it.
#[derive(Debug, Default)]
struct Kept {
    kept: BytesMut,
    size: i64,
}

impl Streams {
    fn keep(&mut self, output: &ExecutionOutput) {
        let stream = match output.stream() {
            OutputStream::Stderr => &mut self.stderr,
            _ => &mut self.stdout,
        };
        let room = KEPT_BYTES.saturating_sub(stream.kept.len()).min(output.data.len());
        stream.kept.extend_from_slice(&output.data[..room]);
        stream.size += i64::try_from(output.data.len()).unwrap_or_default();
    }
}

/// A case's result without what can be large, so that a thousand of them are one message.
fn summary(result: &CaseResult) -> CaseResult {
    let (stdout, stderr, receipt) = (Bytes::new(), Bytes::new(), Vec::new());
    CaseResult { stdout, stderr, difference: None, receipt, ..result.clone() }
}

fn apply(result: &mut ExecutionResult, event: &Event) {
    match &event.payload {
        Some(Payload::ExecutionStarted(started)) => result.compile = started.compile.clone(),
        Some(Payload::ExecutionRunning(running)) => result.case_results.extend(running.case_result.iter().map(summary)),
        Some(Payload::ExecutionCompleted(ended)) => {
            result.set_state(ExecutionState::Completed);
            result.exit_code = Some(ended.exit_code).filter(|_| ended.cases.is_none());
            result.resource_usage = ended.resource_usage;
            result.receipt.clone_from(&ended.receipt);
            result.cases = ended.cases;
        }
        Some(Payload::ExecutionFailed(ended)) => {
            result.set_state(ExecutionState::Failed);
            result.exit_code = Some(ended.exit_code).filter(|code| *code >= 0);
            result.error_type = ended.error_type;
            result.error_message = ended.error_message.clone();
            result.resource_usage = ended.resource_usage;
            result.receipt.clone_from(&ended.receipt);
            result.cases = ended.cases;
            result.compile = ended.compile.clone().or_else(|| result.compile.take());
        }
        Some(Payload::ExecutionTimeout(ended)) => {
            result.set_state(ExecutionState::TimedOut);
            result.error_message = lifecycle::TIMEOUT_WORDS.to_owned();
            result.resource_usage = ended.resource_usage;
            result.receipt.clone_from(&ended.receipt);
            result.cases = ended.cases;
        }
        Some(Payload::ExecutionCancelled(ended)) => {
            result.set_state(ExecutionState::Cancelled);
            result.error_message = ended.reason.clone();
            result.receipt.clone_from(&ended.receipt);
            result.cases = ended.cases;
        }
        _ => {}
    }
}
