//! Which events mean what in the life of an execution, for every service that reads an execution's log.

use runmesh_proto::event::{
    DeletePodCommand, Event, EventType, ExecutionCancelled, ExecutionRequested, PodTerminated, RunnerLoss,
};

use crate::{NewEvent, TraceParent};

/// The events that end an execution. Its log has exactly one of them in the end.
pub const TERMINAL: [EventType; 4] = [
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
];

/// The events that say what became of an execution's result.
pub const RESULT: [EventType; 2] = [EventType::ResultStored, EventType::ResultFailed];

/// The events that end an execution's saga.
pub const SAGA_END: [EventType; 3] = [EventType::SagaCompleted, EventType::SagaFailed, EventType::SagaCancelled];

/// All that can be in an execution's log but its output, which can be large.
pub const WITHOUT_OUTPUT: [EventType; 30] = [
    EventType::ExecutionRequested,
    EventType::ExecutionAccepted,
    EventType::ExecutionQueued,
    EventType::ExecutionStarted,
    EventType::ExecutionRunning,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    EventType::PodCreated,
    EventType::PodScheduled,
    EventType::PodRunning,
    EventType::PodSucceeded,
    EventType::PodFailed,
    EventType::PodTerminated,
    EventType::PodDeleted,
    EventType::ResultStored,
    EventType::ResultFailed,
    EventType::SagaStarted,
    EventType::SagaCompleted,
    EventType::SagaFailed,
    EventType::SagaCancelled,
    EventType::SagaCompensating,
    EventType::SagaCompensated,
    EventType::CreatePodCommand,
    EventType::DeletePodCommand,
    EventType::AllocateResourcesCommand,
    EventType::ReleaseResourcesCommand,
    EventType::SystemError,
    EventType::ResourceLimitExceeded,
];

/// The exit code of what has none.
pub const NO_EXIT_CODE: i32 = -1;

/// Why an execution failed that reached its wall-clock limit.
pub const TIMEOUT_WORDS: &str = "the wall-clock limit was reached";

/// The greatest number of characters of a cancel's reason.
pub const MAX_CANCEL_REASON: usize = 1_024;

/// The attempt that an event is about, from 1. Events that were recorded before there were attempts have 0.
pub fn attempt(number: i32) -> i32 {
    number.max(1)
}

/// Whether an execution is run again after an attempt was lost with its runner, `begun` being how many have begun so far.
/// An attempt that had not begun is always made again, since nothing of the script has run: it is not counted.
pub fn may_retry(request: &ExecutionRequested, begun: i32) -> bool {
    request.on_runner_loss() == RunnerLoss::Retry && begun <= request.maximum_retries
}

/// The name of an attempt's sandbox in events.
pub fn pod_name(execution_id: &str, attempt: impl std::fmt::Display) -> String {
    format!("{execution_id}-{attempt}")
}

/// The loss of an attempt after which another is made: why in a word, and in more of them.
pub fn attempt_lost(execution_id: &str, attempt: i32, reason: &str, words: &str) -> PodTerminated {
    PodTerminated {
        execution_id: execution_id.to_owned(),
        pod_name: pod_name(execution_id, attempt),
        exit_code: NO_EXIT_CODE,
        reason: Some(reason.to_owned()),
        message: Some(words.to_owned()),
        lost_attempt: attempt,
    }
}

/// The event by which a user cancels the execution whose log begins with `first`. It has to be appended to the log as it
/// was when this was decided.
///
/// `runs`: a runner was told to run it and is not lost. It ends the script and then records how; the request alone is
/// recorded here, once. Otherwise the execution ends with the event.
pub fn cancel(first: &Event, producer: &str, trace: &TraceParent, user: &str, reason: &str, runs: bool) -> NewEvent {
    let (execution_id, reason) = (first.aggregate_id.clone(), reason.to_owned());
    if runs {
        let purpose = first.aggregate_id.as_str();
        let command = DeletePodCommand { execution_id, reason, ..DeletePodCommand::default() };
        return NewEvent::within(first, producer, trace, command).once("cancel", purpose);
    }
    let cancelled_by = Some(user.to_owned()).filter(|user| !user.is_empty());
    let cancelled = ExecutionCancelled { execution_id, reason, cancelled_by, ..ExecutionCancelled::default() };
    NewEvent::within(first, producer, trace, cancelled)
}
