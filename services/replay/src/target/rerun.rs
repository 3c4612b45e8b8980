//! Executions again, as new executions.
//!
//! The new one's id follows from the replay and the old one's: what is asked for twice is run once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use runmesh_events::{Event, EventType};
use runmesh_proto::{
    event::QueuePriority,
    execution::{
        Execution, ExecutionState, GetExecutionRequest, RetryExecutionRequest, RetryOverrides, WaitExecutionRequest,
        execution_service_client::ExecutionServiceClient,
    },
    replay::RerunOptions,
};
use runmesh_rpc::client::{Credentials, Router};
use tonic::{Code, Status, service::interceptor::InterceptedService};

use super::{SendError, Target};
use crate::plan::Wrong;

/// The way to the execution service.
pub type Executions = ExecutionServiceClient<InterceptedService<Router, Credentials>>;

/// The label that the new executions have; its value is the replay's id.
const LABEL: &str = "replay";

/// How many are asked for at the same time: by default, and at most.
const PARALLEL: (usize, usize) = (8, 64);

/// How long one call waits for an execution.
const WAIT: Duration = Duration::from_secs(25);

/// Checked [`RerunOptions`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RerunSpec {
    overrides: RetryOverrides,
    /// How many are asked for, or awaited, at the same time.
    pub(crate) parallel: usize,
}

impl RerunSpec {
    pub(super) fn parse(field: &str, options: Option<&RerunOptions>, wrong: &mut Wrong) -> Self {
        let RerunOptions { language_version, limits, parallel } = options.cloned().unwrap_or_default();
        let parallel = match usize::try_from(parallel) {
            Ok(0) => PARALLEL.0,
            Ok(number) if number <= PARALLEL.1 => number,
            _ => {
                wrong.field(format_args!("{field}.options.parallel"), "has to be from 0 to 64");
                PARALLEL.0
            }
        };
        if let Some(limits) = &limits {
            let numbers = [
                ("output_bytes", limits.output_bytes),
                ("memory_bytes", limits.memory_bytes),
                ("cpu_millis", limits.cpu_millis.into()),
                ("processes", limits.processes.into()),
                ("disk_bytes", limits.disk_bytes),
                ("file_bytes", limits.file_bytes),
            ];
            for (name, _) in numbers.into_iter().filter(|(_, number)| *number < 0) {
                wrong.field(format_args!("{field}.options.limits.{name}"), "is negative");
            }
            for (name, time) in [("wall_time", &limits.wall_time), ("cpu_time", &limits.cpu_time)] {
                if time.as_ref().is_some_and(|time| runmesh_events::from_duration(time).is_none()) {
                    wrong.field(format_args!("{field}.options.limits.{name}"), "is negative");
                }
            }
        }
        let priority = QueuePriority::Background.into();
        Self { overrides: RetryOverrides { language_version, limits, priority, ..Default::default() }, parallel }
    }
}

/// Has executions run again.
#[derive(Clone)]
pub(crate) struct Reruns {
    executions: Executions,
    replay_id: String,
    overrides: RetryOverrides,
    pub(super) parallel: usize,
}

impl Reruns {
    pub(super) fn new(executions: Executions, replay_id: &str, spec: &RerunSpec) -> Self {
        let mut overrides = spec.overrides.clone();
        overrides.labels.insert(LABEL.to_owned(), replay_id.to_owned());
        Self { executions, replay_id: replay_id.to_owned(), overrides, parallel: spec.parallel }
    }

    /// An execution as it is.
    pub(super) async fn get(&self, execution_id: &str) -> Result<Execution, SendError> {
        let request = GetExecutionRequest { execution_id: execution_id.to_owned() };
        let response = self.executions.clone().get_execution(request).await.map_err(|status| failed(&status))?;
        response.into_inner().execution.ok_or_else(no_execution)
    }

    /// Asks for a new execution of this one.
    pub(super) async fn ask(&self, execution_id: &str) -> Result<Execution, SendError> {
        let request = RetryExecutionRequest {
            execution_id: execution_id.to_owned(),
            request_id: format!("replay/{}/{execution_id}", self.replay_id),
            overrides: Some(self.overrides.clone()),
        };
        let response = self.executions.clone().retry_execution(request).await.map_err(|status| failed(&status))?;
        response.into_inner().execution.ok_or_else(no_execution)
    }

    /// Waits for its end.
    pub(super) async fn wait(&self, execution_id: &str) -> Result<Execution, SendError> {
        loop {
            let timeout = Some(runmesh_events::to_duration(WAIT));
            let request = WaitExecutionRequest { execution_id: execution_id.to_owned(), timeout };
            let response = self.executions.clone().wait_execution(request).await.map_err(|status| failed(&status))?;
            let execution = response.into_inner().execution.ok_or_else(no_execution)?;
            let state = execution.state();
            let is_over = matches!(
                state,
                ExecutionState::Completed
                    | ExecutionState::Failed
                    | ExecutionState::TimedOut
                    | ExecutionState::Cancelled
            );
            if is_over {
                return Ok(execution);
            }
        }
    }
}

fn no_execution() -> SendError {
    SendError::transient("the answer has no execution")
}

fn failed(status: &Status) -> SendError {
    let transient =
        matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted);
    SendError { transient, words: format!("{:?}: {}", status.code(), status.message()) }
}

/// The target `rerun`.
pub(super) struct RerunTarget(pub(super) Reruns);

#[async_trait]
impl Target for RerunTarget {
    fn wants(&self, event_type: EventType) -> bool {
        event_type == EventType::ExecutionRequested
    }

    async fn send(&mut self, events: &[Arc<Event>]) -> Vec<Result<(), SendError>> {
        let asked: Vec<_> = events
            .iter()
            .map(|event| {
                let (reruns, id) = (self.0.clone(), event.aggregate_id.clone());
                async move { reruns.ask(&id).await.map(drop) }
            })
            .collect();
        stream::iter(asked).buffered(self.0.parallel).collect().await
    }
}
