//! What was asked for, and one attempt at it.

use prost_types::Timestamp;
use runmesh_events::lifecycle;
use runmesh_proto::event::ExecutionRequested;

use super::step;

/// What was asked for, without what can be large.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// The request's fields that commands repeat.
    pub(super) fields: ExecutionRequested,
    /// The id of its event.
    pub(super) event_id: String,
    /// The number of its cases.
    pub(super) cases: usize,
}

/// One attempt at the execution. Of several, one at most has a slot: what an earlier one had was released before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attempt {
    /// From 1.
    pub(super) number: i32,
    /// How many of those before it had begun.
    pub(super) begun_before: i32,
    pub(super) allocate_asked: bool,
    /// The runner that its slot is at, once it has one.
    pub(super) runner: Option<String>,
    pub(super) run_asked_at: Option<Timestamp>,
    pub(super) run_asked: bool,
    /// Whether its runner gave a sign of life.
    pub(super) begun: bool,
    pub(super) lost: bool,
    pub(super) release_asked: bool,
    pub(super) compensating: bool,
    pub(super) compensated: bool,
}

impl Attempt {
    pub(super) fn new(number: i32, begun_before: i32) -> Self {
        Self {
            number,
            begun_before,
            allocate_asked: false,
            runner: None,
            run_asked_at: None,
            run_asked: false,
            begun: false,
            lost: false,
            release_asked: false,
            compensating: false,
            compensated: false,
        }
    }

    /// How many attempts have begun, with this one.
    pub(super) fn begun_so_far(&self) -> i32 {
        self.begun_before + i32::from(self.begun)
    }

    /// The steps that were taken and can be undone, in the order in which they were taken.
    pub(super) fn taken(&self) -> impl DoubleEndedIterator<Item = &'static str> + use<> {
        let steps = [
            (step::ALLOCATE, self.allocate_asked),
            (step::QUEUE, self.runner.is_some()),
            (step::START, self.run_asked),
        ];
        steps.into_iter().filter(|(_, taken)| *taken).map(|(name, _)| name)
    }
}

impl Request {
    pub(super) fn of(request: &ExecutionRequested, event_id: &str) -> Self {
        let fields = ExecutionRequested {
            execution_id: request.execution_id.clone(),
            language: request.language.clone(),
            language_version: request.language_version.clone(),
            runtime_image: request.runtime_image.clone(),
            runtime_command: request.runtime_command.clone(),
            runtime_filename: request.runtime_filename.clone(),
            timeout: request.timeout,
            cpu_limit: request.cpu_limit.clone(),
            memory_limit: request.memory_limit.clone(),
            cpu_request: request.cpu_request.clone(),
            memory_request: request.memory_request.clone(),
            priority: request.priority,
            on_runner_loss: request.on_runner_loss,
            maximum_retries: request.maximum_retries,
            ..ExecutionRequested::default()
        };
        Self { fields, event_id: event_id.to_owned(), cases: request.cases.len() }
    }

    /// Whether another attempt may follow when the runner of one is lost and so many have begun.
    pub(super) fn may_retry(&self, begun: i32) -> bool {
        lifecycle::may_retry(&self.fields, begun)
    }
}
