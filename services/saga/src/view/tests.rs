//! What is shown of a log: each ending, and a lost attempt.

use runmesh_events::EventType;
use runmesh_proto::event::{
    ExecutionAccepted, ExecutionCancelled, ExecutionCompleted, ExecutionFailed, ExecutionOutput, ExecutionRequested,
    ExecutionStarted, PodTerminated, ResultStored, RunnerLoss,
};

use super::*;
use crate::machine::SagaLog;

/// A log with what the machine adds to it, and what is shown after each event.
#[derive(Default)]
struct Shown {
    events: Vec<Event>,
    view: SagaView,
    changes: Vec<EventType>,
}

impl Shown {
    fn append(&mut self, payload: Payload) {
        let sequence = self.events.len() as u64 + 1;
        let occurred_at = Some(Timestamp { seconds: i64::try_from(sequence).unwrap(), nanos: 0 });
        let aggregate_id = "x".to_owned();
        let event = Event {
            aggregate_id,
            sequence,
            occurred_at,
            user_id: "u".to_owned(),
            payload: Some(payload.clone()),
            ..Event::default()
        };
        if self.view.apply(&event) {
            self.changes.push(payload.event_type());
            assert_eq!((self.view.saga().last_sequence, self.view.saga().updated_at), (sequence, occurred_at));
        }
        self.events.push(event);
    }

    fn add(&mut self, payload: impl Into<Payload>) -> &mut Self {
        self.append(payload.into());
        for decision in SagaLog::of(&self.events).decide() {
            self.append(decision.payload);
        }
        // Read in one go it is the same.
        assert_eq!(SagaView::of(&self.events), self.view);
        self
    }

    fn states(&self) -> [SagaStepState; 5] {
        let states: Vec<SagaStepState> = self.view.saga().steps.iter().map(SagaStep::state).collect();
        states.try_into().unwrap()
    }

    fn state(&self) -> SagaState {
        self.view.saga().state()
    }
}

fn requested() -> ExecutionRequested {
    ExecutionRequested { on_runner_loss: RunnerLoss::Retry as i32, maximum_retries: 1, ..ExecutionRequested::default() }
}

use super::SagaStepState::{Compensated, Done, Failed, Pending, Running, Skipped};

#[test]
fn the_steps_of_a_run_that_completes_are_done_one_after_the_other() {
    let mut shown = Shown::default();
    shown.add(requested());
    assert_eq!(shown.states(), [Done, Running, Pending, Pending, Pending]);
    shown.add(ExecutionAccepted::default());
    assert_eq!(shown.states(), [Done, Done, Running, Pending, Pending]);
    shown.add(ExecutionStarted::default()).add(ExecutionOutput::default());
    assert_eq!(shown.states(), [Done, Done, Done, Running, Pending]);
    shown.add(ExecutionCompleted::default());
    assert_eq!((shown.state(), shown.states()), (SagaState::Running, [Done; 5]));
    shown.add(ResultStored::default());
    let saga = shown.view.saga();
    assert_eq!((saga.state(), saga.user_id.as_str(), saga.attempt), (SagaState::Completed, "u", 1));
    assert_eq!((saga.created_at.unwrap().seconds, saga.ended_at), (1, saga.updated_at));
    assert!(saga.steps.iter().all(|step| step.attempts == 1 && step.started_at.is_some() && step.ended_at.is_some()));
    assert!(!shown.changes.contains(&EventType::ExecutionOutput), "{:?}", shown.changes);
}

#[test]
fn a_failure_shows_the_step_that_failed_and_those_that_are_undone() {
    let mut shown = Shown::default();
    let failed = || ExecutionFailed { error_message: "exit code 1".to_owned(), ..ExecutionFailed::default() };
    shown.add(requested()).add(ExecutionAccepted::default()).add(ExecutionStarted::default()).add(failed());
    assert_eq!(shown.states(), [Compensated, Compensated, Compensated, Failed, Pending]);
    assert_eq!(shown.state(), SagaState::Compensating);
    shown.add(ResultStored::default());
    assert_eq!(shown.states(), [Compensated, Compensated, Compensated, Failed, Skipped]);
    let saga = shown.view.saga();
    assert_eq!((saga.state(), saga.error.as_str()), (SagaState::Failed, "exit code 1"));
    assert_eq!(saga.steps[3].error, "exit code 1");

    // Refused by the scheduler.
    let mut shown = Shown::default();
    shown.add(requested()).add(failed()).add(ResultStored::default());
    assert_eq!(shown.states(), [Compensated, Failed, Skipped, Skipped, Skipped]);
}

#[test]
fn a_cancel_shows_what_was_undone_and_what_never_came() {
    let cancelled = || ExecutionCancelled { reason: "enough".to_owned(), ..ExecutionCancelled::default() };
    let mut shown = Shown::default();
    shown.add(requested()).add(cancelled()).add(ResultStored::default());
    assert_eq!(shown.states(), [Compensated, Skipped, Skipped, Skipped, Skipped]);
    let mut shown = Shown::default();
    shown.add(requested()).add(ExecutionAccepted::default()).add(cancelled()).add(ResultStored::default());
    assert_eq!(shown.states(), [Compensated, Compensated, Compensated, Skipped, Skipped]);
    assert_eq!((shown.state(), shown.view.saga().error.as_str()), (SagaState::Cancelled, "enough"));
}

#[test]
fn a_lost_attempt_is_shown_and_the_next_begins_anew() {
    let mut shown = Shown::default();
    shown.add(requested()).add(ExecutionAccepted::default()).add(ExecutionStarted::default());
    shown.add(PodTerminated { lost_attempt: 1, ..PodTerminated::default() });
    let saga = shown.view.saga().clone();
    assert_eq!((saga.state(), saga.attempt), (SagaState::Running, 2));
    assert_eq!(shown.states(), [Done, Running, Pending, Pending, Pending]);
    let attempts: Vec<i32> = saga.steps.iter().map(|step| step.attempts).collect();
    assert_eq!((attempts, saga.steps[3].error.as_str()), (vec![2, 2, 1, 1, 0], LOST));
    assert!(
        shown.changes.contains(&EventType::SagaCompensating) && shown.changes.contains(&EventType::SagaCompensated)
    );
    shown.add(ExecutionAccepted { attempt: 2, ..ExecutionAccepted::default() }).add(ExecutionStarted::default());
    shown.add(ExecutionCompleted::default()).add(ResultStored::default());
    assert_eq!((shown.state(), shown.states()), (SagaState::Completed, [Done; 5]));
}
