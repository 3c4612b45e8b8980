//! The state machine: what the log says so far -> which events the saga adds now.

mod attempt;
mod payloads;
#[cfg(test)]
mod tests;

use prost_types::Timestamp;
use runmesh_events::{Event, EventId, EventType, GroupName, Payload, lifecycle};

use self::attempt::{Attempt, Request};

/// The saga's name in its events.
pub const NAME: &str = "execution";

/// The steps, by their names in events.
pub mod step {
    /// A slot was asked for.
    pub const ALLOCATE: &str = "allocate";
    /// The slot was given.
    pub const QUEUE: &str = "queue";
    /// The runner was told to run.
    pub const START: &str = "start";
    /// The run ended.
    pub const AWAIT: &str = "await";
    /// The slot was given back.
    pub const RELEASE: &str = "release";

    /// All of them, in the order in which they are taken.
    pub const ALL: [&str; 5] = [ALLOCATE, QUEUE, START, AWAIT, RELEASE];
}

/// How the execution ended.
#[derive(Debug, Clone, PartialEq)]
enum Ending {
    Completed,
    Failed(String),
    Cancelled { reason: String, by: Option<String>, at: Option<Timestamp> },
}

/// What the log says about the saga.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaLog {
    request: Option<Request>,
    started: bool,
    attempt: Attempt,
    /// Who asked for the end of the run, why and when.
    cancel_asked: Option<Ending>,
    ending: Option<Ending>,
    result_known: bool,
    ended: bool,
}

impl Default for SagaLog {
    fn default() -> Self {
        Self {
            request: None,
            started: false,
            attempt: Attempt::new(1, 0),
            cancel_asked: None,
            ending: None,
            result_known: false,
            ended: false,
        }
    }
}

/// The types that the state machine looks at.
pub const TYPES: [EventType; 21] = [
    EventType::ExecutionRequested,
    EventType::SagaStarted,
    EventType::AllocateResourcesCommand,
    EventType::ExecutionAccepted,
    EventType::CreatePodCommand,
    EventType::PodCreated,
    EventType::ExecutionStarted,
    EventType::PodTerminated,
    EventType::DeletePodCommand,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    EventType::SagaCompensating,
    EventType::ReleaseResourcesCommand,
    EventType::SagaCompensated,
    EventType::ResultStored,
    EventType::ResultFailed,
    EventType::SagaCompleted,
    EventType::SagaFailed,
    EventType::SagaCancelled,
];

/// The types after which the saga may have something to do.
pub const TRIGGERS: [EventType; 9] = [
    EventType::ExecutionRequested,
    EventType::ExecutionAccepted,
    EventType::PodTerminated,
    EventType::ExecutionCompleted,
    EventType::ExecutionFailed,
    EventType::ExecutionTimeout,
    EventType::ExecutionCancelled,
    EventType::ResultStored,
    EventType::ResultFailed,
];

/// The id of an execution's saga.
pub fn saga_id(execution_id: &str) -> String {
    EventId::derived("saga", execution_id, 0).to_string()
}

/// An event that the saga adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The attempt that it is about, from 1. What is in a log once, whatever the attempt, has 1.
    pub attempt: i32,
    /// The event.
    pub payload: Payload,
}

impl Decision {
    fn once(payload: impl Into<Payload>) -> Self {
        Self { attempt: 1, payload: payload.into() }
    }

    /// What the event's id is derived from, beside the log: the same for the same decision, however often it is made.
    pub fn purpose(&self, group: GroupName) -> String {
        let event_type = self.payload.event_type().as_str_name();
        match self.attempt {
            ..=1 => format!("{group}/{event_type}"),
            attempt => format!("{group}/{event_type}/{attempt}"),
        }
    }
}

impl SagaLog {
    /// What these events say.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut log = Self::default();
        for event in events {
            log.apply(event);
        }
        log
    }

    /// Takes the next event into account.
    pub fn apply(&mut self, event: &Event) {
        let Some(payload) = &event.payload else { return };
        match payload {
            Payload::ExecutionRequested(request) => self.request = Some(Request::of(request, &event.event_id)),
            Payload::AllocateResourcesCommand(command) => {
                let number = lifecycle::attempt(command.attempt);
                if number > self.attempt.number {
                    self.attempt = Attempt::new(number, self.attempt.begun_so_far());
                }
                self.attempt.allocate_asked = true;
            }
            Payload::ExecutionCompleted(_) => self.end(Ending::Completed),
            Payload::ExecutionFailed(failed) => self.end(Ending::Failed(failed.error_message.clone())),
            Payload::ExecutionTimeout(_) => self.end(Ending::Failed(lifecycle::TIMEOUT_WORDS.to_owned())),
            Payload::ExecutionCancelled(cancelled) => self.end(Ending::Cancelled {
                reason: cancelled.reason.clone(),
                by: cancelled.cancelled_by.clone(),
                at: event.occurred_at,
            }),
            Payload::DeletePodCommand(command) => {
                let (reason, user) = (command.reason.clone(), Some(event.user_id.clone()));
                let by = user.filter(|user| !user.is_empty());
                self.cancel_asked.get_or_insert(Ending::Cancelled { reason, by, at: event.occurred_at });
            }
            Payload::SagaStarted(_) => self.started = true,
            other => {
                let event_type = other.event_type();
                self.result_known |= lifecycle::RESULT.contains(&event_type);
                self.ended |= lifecycle::SAGA_END.contains(&event_type);
                self.apply_to_attempt(other, event.occurred_at);
            }
        }
    }

    fn apply_to_attempt(&mut self, payload: &Payload, at: Option<Timestamp>) {
        let attempt = &mut self.attempt;
        let is_current = |number: i32| lifecycle::attempt(number) == attempt.number;
        match payload {
            Payload::ExecutionAccepted(accepted) if attempt.allocate_asked && is_current(accepted.attempt) => {
                attempt.runner.get_or_insert(accepted.runner.clone());
            }
            Payload::CreatePodCommand(command) if is_current(command.attempt) => {
                attempt.run_asked = true;
                attempt.run_asked_at = attempt.run_asked_at.or(at);
            }
            Payload::PodCreated(_) | Payload::ExecutionStarted(_) => {
                attempt.begun |= attempt.run_asked && !attempt.lost
            }
            // What was lost after the execution had ended changes nothing any more.
            Payload::PodTerminated(lost) if lost.lost_attempt == attempt.number && self.ending.is_none() => {
                attempt.lost |= attempt.allocate_asked;
            }
            Payload::SagaCompensating(_) => attempt.compensating = true,
            Payload::ReleaseResourcesCommand(command) if is_current(command.attempt) => attempt.release_asked = true,
            Payload::SagaCompensated(_) => attempt.compensated = true,
            _ => {}
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// The events that the saga adds now. Applied to the log they leave nothing to add until another service does.
    pub fn decide(&self) -> Vec<Decision> {
        let (mut log, mut decisions) = (self.clone(), Vec::new());
        while let Some(decision) = log.next() {
            log.apply(&Event { payload: Some(decision.payload.clone()), ..Event::default() });
            decisions.push(decision);
        }
        decisions
    }

    /// The next event that the saga adds.
    fn next(&self) -> Option<Decision> {
        let request = self.request.as_ref().filter(|_| !self.ended)?;
        if !self.started {
            return Some(Decision::once(request.saga_started()));
        }
        let attempt = &self.attempt;
        match &self.ending {
            Some(Ending::Completed) if attempt.allocate_asked && !attempt.release_asked => Some(self.release(request)),
            Some(Ending::Completed) => self.result_known.then(|| self.ended(request)),
            Some(_) => self.undo(request).or_else(|| self.result_known.then(|| self.ended(request))),
            None if attempt.lost || !attempt.run_asked => match &self.cancel_asked {
                // There is no runner that could end it.
                Some(cancel) => cancel.execution_cancelled(request),
                None if attempt.lost => Some(self.lost(request)),
                None if !attempt.allocate_asked => Some(Decision::of(attempt.number, request.allocate(attempt.number))),
                None => {
                    let runner = attempt.runner.as_ref()?;
                    Some(Decision::of(attempt.number, request.run(attempt.number, runner)))
                }
            },
            None => None,
        }
    }

    /// What follows from the loss of the attempt's runner: all that it had is undone and the next begins, or, where there
    /// is no next, the execution has failed. There always is one where nothing of the script can have run.
    fn lost(&self, request: &Request) -> Decision {
        let number = self.attempt.number;
        if self.attempt.begun && !request.may_retry(self.attempt.begun_so_far()) {
            return Decision::once(request.runner_lost("the runner was lost, and there are no retries left"));
        }
        self.undo(request).unwrap_or_else(|| Decision::of(number + 1, request.allocate(number + 1)))
    }

    /// The next event that undoes what the attempt did. `None`: nothing is left to undo.
    fn undo(&self, request: &Request) -> Option<Decision> {
        let attempt = &self.attempt;
        let mut steps = attempt.taken().rev().map(str::to_owned).peekable();
        let last = steps.peek()?.clone();
        if !attempt.compensating {
            return Some(Decision::of(attempt.number, request.compensating(last)));
        }
        if !attempt.release_asked {
            return Some(self.release(request));
        }
        (!attempt.compensated).then(|| Decision::of(attempt.number, request.compensated(steps.collect())))
    }

    fn release(&self, request: &Request) -> Decision {
        Decision::of(self.attempt.number, request.release(self.attempt.number))
    }

    /// What is added when the runner gave no sign of life within the time for a start. `None`: it did, or it has none to
    /// give.
    pub fn start_timed_out(&self) -> Option<Decision> {
        let request = self.request.as_ref()?;
        self.awaits_start_since()?;
        let number = self.attempt.number;
        // By all attempts: a runner that is alive and begins nothing is not tried without end.
        if request.may_retry(number) && self.cancel_asked.is_none() {
            return Some(Decision::of(number, request.attempt_lost(number)));
        }
        match &self.cancel_asked {
            Some(cancel) => cancel.execution_cancelled(request),
            None => Some(Decision::once(request.runner_lost("no runner began to run it in time"))),
        }
    }

    /// Since when a runner is to give a sign of life. `None`: none has to.
    pub fn awaits_start_since(&self) -> Option<Timestamp> {
        let waits = self.ending.is_none() && self.attempt.run_asked && !self.attempt.begun && !self.attempt.lost;
        self.attempt.run_asked_at.filter(|_| waits)
    }

    /// Whether the log has its first event.
    pub fn exists(&self) -> bool {
        self.request.is_some()
    }

    /// Whether the saga has begun.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Whether the saga has ended.
    pub fn ended_already(&self) -> bool {
        self.ended
    }

    /// Which attempt is made, or was the last, from 1.
    pub fn attempt(&self) -> i32 {
        self.attempt.number
    }

    /// Where a cancel finds the execution.
    pub(crate) fn cancellable(&self) -> Cancellable {
        match &self.ending {
            Some(Ending::Cancelled { .. }) => Cancellable::Already,
            Some(_) => Cancellable::Ended,
            None if self.cancel_asked.is_some() => Cancellable::Already,
            None => Cancellable::Open { runs: self.attempt.run_asked && !self.attempt.lost },
        }
    }
}

/// Where a cancel finds an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancellable {
    /// It is cancelled, or being cancelled.
    Already,
    /// It ended otherwise.
    Ended,
    /// It goes on. `runs`: a runner was told to run it.
    Open { runs: bool },
}

impl Decision {
    fn of(attempt: i32, payload: impl Into<Payload>) -> Self {
        Self { attempt, payload: payload.into() }
    }
}
