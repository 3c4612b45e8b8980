//! The events that the saga adds, filled in.

use runmesh_events::lifecycle;
use runmesh_proto::event::{
    AllocateResourcesCommand, CaseCounts, CreatePodCommand, ExecutionCancelled, ExecutionErrorType, ExecutionFailed,
    PodTerminated, ReleaseResourcesCommand, SagaCancelled, SagaCompensated, SagaCompensating, SagaCompleted,
    SagaFailed, SagaStarted,
};

use super::{Attempt, Decision, Ending, NAME, Request, SagaLog, saga_id, step};

impl Request {
    fn execution_id(&self) -> String {
        self.fields.execution_id.clone()
    }

    fn saga_id(&self) -> String {
        saga_id(&self.fields.execution_id)
    }

    pub(super) fn saga_started(&self) -> SagaStarted {
        SagaStarted {
            saga_id: self.saga_id(),
            saga_name: NAME.to_owned(),
            execution_id: self.execution_id(),
            initial_event_id: self.event_id.clone(),
        }
    }

    pub(super) fn allocate(&self, attempt: i32) -> AllocateResourcesCommand {
        AllocateResourcesCommand {
            execution_id: self.execution_id(),
            cpu_request: self.fields.cpu_request.clone(),
            memory_request: self.fields.memory_request.clone(),
            attempt,
        }
    }

    pub(super) fn release(&self, attempt: i32) -> ReleaseResourcesCommand {
        ReleaseResourcesCommand {
            execution_id: self.execution_id(),
            cpu_request: self.fields.cpu_request.clone(),
            memory_request: self.fields.memory_request.clone(),
            attempt,
        }
    }

    pub(super) fn run(&self, attempt: i32, runner: &str) -> CreatePodCommand {
        let request = &self.fields;
        CreatePodCommand {
            saga_id: self.saga_id(),
            execution_id: self.execution_id(),
            // The runner reads the sources from the log's first event, so that they are stored once.
            script: String::new(),
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
            runner: runner.to_owned(),
            attempt,
        }
    }

    pub(super) fn compensating(&self, compensating_step: String) -> SagaCompensating {
        SagaCompensating {
            saga_id: self.saga_id(),
            saga_name: NAME.to_owned(),
            execution_id: self.execution_id(),
            compensating_step,
        }
    }

    pub(super) fn compensated(&self, compensated_steps: Vec<String>) -> SagaCompensated {
        SagaCompensated {
            saga_id: self.saga_id(),
            saga_name: NAME.to_owned(),
            execution_id: self.execution_id(),
            compensated_steps,
        }
    }

    /// The end of an execution whose runner is gone.
    pub(super) fn runner_lost(&self, words: &str) -> ExecutionFailed {
        let total = i32::try_from(self.cases).unwrap_or(i32::MAX);
        ExecutionFailed {
            execution_id: self.execution_id(),
            exit_code: lifecycle::NO_EXIT_CODE,
            error_type: ExecutionErrorType::RunnerLost as i32,
            error_message: words.to_owned(),
            cases: (total > 0).then(|| CaseCounts { total, not_run: total, ..CaseCounts::default() }),
            ..ExecutionFailed::default()
        }
    }

    /// The loss of an attempt after which another is made.
    pub(super) fn attempt_lost(&self, attempt: i32) -> PodTerminated {
        lifecycle::attempt_lost(&self.fields.execution_id, attempt, "lost", "no runner began to run it in time")
    }
}

impl Ending {
    /// The end of an execution that is to be cancelled and has no runner. `None`: this is another ending.
    pub(super) fn execution_cancelled(&self, request: &Request) -> Option<Decision> {
        let Self::Cancelled { reason, by, .. } = self else { return None };
        Some(Decision::once(ExecutionCancelled {
            execution_id: request.execution_id(),
            reason: reason.clone(),
            cancelled_by: by.clone(),
            ..ExecutionCancelled::default()
        }))
    }
}

impl SagaLog {
    /// The end of the saga.
    pub(super) fn ended(&self, request: &Request) -> Decision {
        let (saga_id, saga_name, execution_id) = (request.saga_id(), NAME.to_owned(), request.execution_id());
        let attempt = &self.attempt;
        let taken = || attempt.taken().map(str::to_owned);
        match self.ending.clone().unwrap_or(Ending::Completed) {
            Ending::Completed => {
                // Of the steps that were taken the slot alone had to be given back.
                let last = [step::AWAIT, step::RELEASE].into_iter().map(str::to_owned);
                let completed_steps = taken().chain(last).collect();
                Decision::once(SagaCompleted { saga_id, saga_name, execution_id, completed_steps })
            }
            Ending::Failed(error) => {
                let failed_step = match attempt {
                    Attempt { begun: true, .. } => step::AWAIT,
                    Attempt { run_asked: true, .. } => step::START,
                    Attempt { allocate_asked: true, .. } => step::QUEUE,
                    Attempt { .. } => step::ALLOCATE,
                };
                let failed_step = failed_step.to_owned();
                Decision::once(SagaFailed { saga_id, saga_name, execution_id, failed_step, error })
            }
            Ending::Cancelled { reason, by, at } => Decision::once(SagaCancelled {
                saga_id,
                saga_name,
                execution_id,
                reason,
                completed_steps: taken().collect(),
                compensated_steps: taken().rev().collect(),
                cancelled_at: at,
                cancelled_by: by,
            }),
        }
    }
}
