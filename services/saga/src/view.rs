//! A saga as its log tells it: a pure fold over events.

#[cfg(test)]
mod tests;

use prost_types::Timestamp;
use runmesh_events::{Event, Payload, lifecycle};
use runmesh_proto::saga::{Saga, SagaState, SagaStep, SagaStepState};

use crate::machine::{TYPES, saga_id, step};

/// Why a step failed whose runner was lost, where the event does not say more.
const LOST: &str = "the runner was lost";

/// A saga, as far as its log was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SagaView {
    saga: Saga,
    /// Whether the execution has ended.
    terminal: bool,
}

impl SagaView {
    /// What these events say.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut view = Self::default();
        for event in events {
            view.apply(event);
        }
        view
    }

    /// The saga.
    pub fn saga(&self) -> &Saga {
        &self.saga
    }

    /// The saga without its steps.
    pub fn summary(&self) -> Saga {
        Saga { steps: Vec::new(), ..self.saga.clone() }
    }

    /// Whether the log has its first event.
    pub fn exists(&self) -> bool {
        !self.saga.saga_id.is_empty()
    }

    /// Whether the saga has ended: nothing changes it any more.
    pub fn ended(&self) -> bool {
        self.saga.ended_at.is_some()
    }

    /// Takes the next event into account. Returns whether it changes the saga.
    pub fn apply(&mut self, event: &Event) -> bool {
        let Some(payload) = &event.payload else { return false };
        if self.ended() || !TYPES.contains(&payload.event_type()) {
            return false;
        }
        let before = self.clone();
        self.change(event, payload);
        if self.saga == before.saga {
            return false;
        }
        self.saga.last_sequence = event.sequence;
        self.saga.updated_at = event.occurred_at;
        true
    }

    fn change(&mut self, event: &Event, payload: &Payload) {
        let at = event.occurred_at;
        let is_current = |number: i32| lifecycle::attempt(number) == self.saga.attempt;
        match payload {
            Payload::ExecutionRequested(_) => self.saga = begun(event),
            Payload::AllocateResourcesCommand(command) => {
                let number = lifecycle::attempt(command.attempt);
                if number > self.saga.attempt {
                    self.begin_attempt(number);
                }
                self.begin(step::ALLOCATE, at);
                self.finish(step::ALLOCATE, SagaStepState::Done, at);
                self.begin(step::QUEUE, at);
            }
            Payload::ExecutionAccepted(accepted) if is_current(accepted.attempt) => {
                self.finish(step::QUEUE, SagaStepState::Done, at);
            }
            Payload::CreatePodCommand(command) if is_current(command.attempt) => self.begin(step::START, at),
            Payload::ExecutionStarted(_) => {
                self.finish(step::START, SagaStepState::Done, at);
                self.begin(step::AWAIT, at);
            }
            Payload::PodTerminated(lost) if lost.lost_attempt == self.saga.attempt && !self.terminal => {
                self.fail(lost.message.as_deref().unwrap_or(LOST), at);
            }
            Payload::ReleaseResourcesCommand(_) if self.saga.state() == SagaState::Running => {
                self.begin(step::RELEASE, at);
                self.finish(step::RELEASE, SagaStepState::Done, at);
            }
            Payload::SagaCompensating(_) => self.saga.set_state(SagaState::Compensating),
            Payload::SagaCompensated(compensated) => {
                for step in &mut self.saga.steps {
                    if compensated.compensated_steps.contains(&step.name) && step.state() != SagaStepState::Failed {
                        step.set_state(SagaStepState::Compensated);
                        step.ended_at = at;
                    }
                }
            }
            Payload::SagaCompleted(_) => self.end(SagaState::Completed, at),
            Payload::SagaFailed(_) => self.end(SagaState::Failed, at),
            Payload::SagaCancelled(_) => self.end(SagaState::Cancelled, at),
            other if !self.terminal => self.change_by_end(other, at),
            _ => {}
        }
    }

    /// Takes a terminal event of the execution into account.
    fn change_by_end(&mut self, payload: &Payload, at: Option<Timestamp>) {
        match payload {
            Payload::ExecutionCompleted(_) => {
                self.finish(step::START, SagaStepState::Done, at);
                self.finish(step::AWAIT, SagaStepState::Done, at);
            }
            Payload::ExecutionFailed(failed) => self.fail_with(&failed.error_message, at),
            Payload::ExecutionTimeout(_) => self.fail_with(lifecycle::TIMEOUT_WORDS, at),
            Payload::ExecutionCancelled(cancelled) => {
                self.saga.error.clone_from(&cancelled.reason);
                for step in self.running() {
                    step.set_state(SagaStepState::Skipped);
                    step.ended_at = at;
                }
            }
            _ => return,
        }
        self.terminal = true;
    }

    /// Another attempt: the steps are taken anew.
    fn begin_attempt(&mut self, number: i32) {
        self.saga.attempt = number;
        self.saga.set_state(SagaState::Running);
        for step in &mut self.saga.steps {
            step.set_state(SagaStepState::Pending);
            (step.started_at, step.ended_at) = (None, None);
        }
    }

    fn begin(&mut self, name: &str, at: Option<Timestamp>) {
        for step in self.saga.steps.iter_mut().filter(|step| step.name == name) {
            if step.state() == SagaStepState::Pending {
                step.set_state(SagaStepState::Running);
                step.attempts += 1;
                step.started_at = at;
            }
        }
    }

    fn running(&mut self) -> impl Iterator<Item = &mut SagaStep> {
        self.saga.steps.iter_mut().filter(|step| step.state() == SagaStepState::Running)
    }

    fn finish(&mut self, name: &str, state: SagaStepState, at: Option<Timestamp>) {
        for step in self.running().filter(|step| step.name == name) {
            step.set_state(state);
            step.ended_at = at;
        }
    }

    fn fail(&mut self, words: &str, at: Option<Timestamp>) {
        for step in self.running() {
            step.set_state(SagaStepState::Failed);
            step.ended_at = at;
            words.clone_into(&mut step.error);
        }
    }

    fn fail_with(&mut self, words: &str, at: Option<Timestamp>) {
        words.clone_into(&mut self.saga.error);
        self.fail(words, at);
    }

    fn end(&mut self, state: SagaState, at: Option<Timestamp>) {
        self.saga.set_state(state);
        // An event always has a time.
        self.saga.ended_at = Some(at.unwrap_or_default());
        for step in &mut self.saga.steps {
            if matches!(step.state(), SagaStepState::Pending | SagaStepState::Running) {
                step.set_state(SagaStepState::Skipped);
            }
        }
    }
}

/// The saga of an execution that was just asked for.
fn begun(event: &Event) -> Saga {
    let steps = step::ALL.map(|name| SagaStep {
        name: name.to_owned(),
        state: SagaStepState::Pending as i32,
        ..SagaStep::default()
    });
    Saga {
        saga_id: saga_id(&event.aggregate_id),
        execution_id: event.aggregate_id.clone(),
        user_id: event.user_id.clone(),
        state: SagaState::Running as i32,
        attempt: 1,
        created_at: event.occurred_at,
        steps: steps.into(),
        ..Saga::default()
    }
}
