//! An execution as its log tells it: a pure fold over events.

use runmesh_events::{Event, EventType, Payload, lifecycle};
use runmesh_proto::{
    event::{CaseCounts, Enforcement},
    execution::{Execution, ExecutionState},
};

use crate::spec;

/// An execution, as far as its log was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExecutionLog {
    execution: Execution,
    terminal: bool,
    result: bool,
    saga_ended: bool,
    run_asked_for: bool,
    cancel_asked_for: bool,
    closed_at: Option<u64>,
}

impl ExecutionLog {
    /// The fold of these events.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut log = Self::default();
        for event in events {
            log.apply(event);
        }
        log
    }

    /// Takes the next event into account.
    pub fn apply(&mut self, event: &Event) {
        let execution = &mut self.execution;
        execution.last_sequence = event.sequence;
        let Some(payload) = &event.payload else { return };
        match payload {
            Payload::ExecutionRequested(request) => {
                execution.execution_id = event.aggregate_id.clone();
                execution.user_id = event.user_id.clone();
                execution.created_at = event.occurred_at;
                execution.retry_of = request.retry_of.clone();
                execution.spec = Some(spec::of_request(request));
                let total = i32::try_from(request.cases.len()).unwrap_or(i32::MAX);
                execution.cases = (total > 0).then(|| CaseCounts { total, not_run: total, ..CaseCounts::default() });
                execution.set_state(ExecutionState::Queued);
            }
            Payload::ExecutionQueued(queued) if !self.terminal => execution.queue_position = queued.position_in_queue,
            Payload::ExecutionAccepted(_) if !self.terminal => {
                execution.queue_position = None;
                if execution.state() == ExecutionState::Queued {
                    execution.set_state(ExecutionState::Starting);
                }
            }
            Payload::CreatePodCommand(_) => self.run_asked_for = true,
            Payload::DeletePodCommand(_) => {
                self.cancel_asked_for = true;
                if !self.terminal {
                    execution.set_state(ExecutionState::Cancelling);
                }
            }
            Payload::ExecutionStarted(started) => {
                execution.started_at = event.occurred_at;
                execution.receipt.clone_from(&started.receipt);
                execution.compile = started.compile.clone();
                if !self.terminal && !self.cancel_asked_for {
                    execution.set_state(ExecutionState::Running);
                }
            }
            Payload::PodTerminated(ended) if ended.lost_attempt > 0 && !self.terminal => {
                // It is run again, from its beginning.
                self.run_asked_for = false;
                if !self.cancel_asked_for {
                    execution.set_state(ExecutionState::Queued);
                }
                (execution.started_at, execution.compile) = (None, None);
                execution.receipt.clear();
            }
            Payload::ExecutionCompleted(ended) => {
                execution.set_state(ExecutionState::Completed);
                // Of several cases there is none.
                execution.exit_code = Some(ended.exit_code).filter(|_| ended.cases.is_none());
                execution.resource_usage = ended.resource_usage;
                held(execution, &ended.receipt);
                execution.cases = ended.cases.or(execution.cases);
            }
            Payload::ExecutionFailed(ended) => {
                execution.set_state(ExecutionState::Failed);
                // -1 stands for "there is none".
                execution.exit_code = Some(ended.exit_code).filter(|code| *code >= 0);
                execution.error_type = ended.error_type;
                execution.error_message = ended.error_message.clone();
                execution.resource_usage = ended.resource_usage;
                held(execution, &ended.receipt);
                execution.compile = ended.compile.clone().or_else(|| execution.compile.take());
                execution.cases = ended.cases.or(execution.cases);
            }
            Payload::ExecutionTimeout(ended) => {
                execution.set_state(ExecutionState::TimedOut);
                execution.error_message = lifecycle::TIMEOUT_WORDS.to_owned();
                execution.resource_usage = ended.resource_usage;
                held(execution, &ended.receipt);
                execution.cases = ended.cases.or(execution.cases);
            }
            Payload::ExecutionCancelled(ended) => {
                execution.set_state(ExecutionState::Cancelled);
                execution.error_message = ended.reason.clone();
                held(execution, &ended.receipt);
                execution.cases = ended.cases.or(execution.cases);
            }
            _ => {}
        }
        let event_type = payload.event_type();
        if lifecycle::TERMINAL.contains(&event_type) {
            self.terminal = true;
            self.execution.ended_at = event.occurred_at;
            self.execution.queue_position = None;
        }
        self.result |= lifecycle::RESULT.contains(&event_type);
        self.saga_ended |= lifecycle::SAGA_END.contains(&event_type);
        if self.terminal && self.result && self.saga_ended {
            self.closed_at.get_or_insert(event.sequence);
        }
        self.execution.closed = self.closed();
    }

    /// Whether the log has its first event.
    pub fn exists(&self) -> bool {
        !self.execution.execution_id.is_empty()
    }

    /// Whether the execution has ended.
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// Whether nothing is added to the log any more.
    pub fn closed(&self) -> bool {
        self.closed_at.is_some()
    }

    /// The sequence of the event that closed the log.
    pub fn closed_at(&self) -> Option<u64> {
        self.closed_at
    }

    /// Whether a runner was told to run it, and is not lost.
    pub fn run_asked_for(&self) -> bool {
        self.run_asked_for
    }

    /// Whether the runner was told to end it.
    pub fn cancel_asked_for(&self) -> bool {
        self.cancel_asked_for
    }

    /// The execution.
    pub fn execution(&self) -> &Execution {
        &self.execution
    }

    /// The execution without what can be large: script, files, standard input and cases.
    pub fn summary(&self) -> Execution {
        let mut summary = self.execution.clone();
        if let Some(spec) = &mut summary.spec {
            spec.script.clear();
            spec.files.clear();
            spec.stdin.clear();
            spec.cases.clear();
        }
        summary
    }
}

/// Takes the receipt of the end, if there is one: what could not be started has none.
fn held(execution: &mut Execution, receipt: &[Enforcement]) {
    if !receipt.is_empty() {
        execution.receipt = receipt.to_vec();
    }
}

/// The types that change what [`ExecutionLog`] says.
pub const TYPES: [EventType; 16] = [
    EventType::ExecutionRequested,
    EventType::ExecutionQueued,
    EventType::ExecutionAccepted,
    EventType::CreatePodCommand,
    EventType::DeletePodCommand,
    EventType::ExecutionStarted,
    EventType::PodTerminated,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    EventType::ResultStored,
    EventType::ResultFailed,
    EventType::SagaCompleted,
    EventType::SagaFailed,
    EventType::SagaCancelled,
];

#[cfg(test)]
mod tests {
    use super::*;
    use runmesh_proto::event::{
        DeletePodCommand, ExecutionAccepted, ExecutionCompleted, ExecutionQueued, ExecutionRequested, ExecutionStarted,
        ResultStored, SagaCompleted,
    };

    fn log(payloads: Vec<Payload>) -> ExecutionLog {
        let events: Vec<Event> = (1..)
            .zip(payloads)
            .map(|(sequence, payload)| Event {
                aggregate_id: "a".to_owned(),
                sequence,
                payload: Some(payload),
                ..Event::default()
            })
            .collect();
        ExecutionLog::of(&events)
    }

    #[test]
    fn a_log_is_closed_when_it_has_its_verdict_its_result_and_the_end_of_its_saga_in_any_order() {
        let verdict = || Payload::from(ExecutionCompleted::default());
        let (result, saga) = (|| Payload::from(ResultStored::default()), || Payload::from(SagaCompleted::default()));
        let request = || Payload::from(ExecutionRequested::default());
        assert!(log(vec![request(), verdict(), result(), saga()]).closed());
        assert!(log(vec![request(), verdict(), saga(), result()]).closed());
        assert!(!log(vec![request(), verdict(), result()]).closed());
        assert!(!log(vec![request(), verdict(), saga()]).closed());
    }

    #[test]
    fn a_cancel_that_is_under_way_shows_until_the_end() {
        let mut payloads = vec![
            Payload::from(ExecutionRequested::default()),
            ExecutionQueued { position_in_queue: Some(3), ..Default::default() }.into(),
        ];
        assert_eq!(log(payloads.clone()).execution().queue_position, Some(3));
        payloads.push(ExecutionAccepted::default().into());
        assert_eq!(log(payloads.clone()).execution().queue_position, None);
        assert_eq!(log(payloads.clone()).execution().state(), ExecutionState::Starting);
        payloads.push(DeletePodCommand::default().into());
        payloads.push(ExecutionStarted::default().into());
        assert_eq!(log(payloads).execution().state(), ExecutionState::Cancelling);
    }
}
