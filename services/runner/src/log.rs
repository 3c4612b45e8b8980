//! What the runner wants to know of an execution's log.

use std::{sync::Arc, time::Duration};

use runmesh_events::{AggregateId, Event, EventType, Payload, from_duration, lifecycle};
use runmesh_proto::event::ExecutionRequested;
use runmesh_store::{EventStore, StoreError, read_log};

use crate::{Limits, RunSpec, SourceFile};

const TYPES: [EventType; 7] = [
    EventType::ExecutionRequested,
    EventType::CreatePodCommand,
    EventType::DeletePodCommand,
    lifecycle::TERMINAL[0],
    lifecycle::TERMINAL[1],
    lifecycle::TERMINAL[2],
    lifecycle::TERMINAL[3],
];

/// Stands for the main file in a runtime's command.
const FILE: &str = "{file}";

/// An execution's log, as far as the runner is concerned.
#[derive(Debug, Default)]
pub(crate) struct RunLog {
    pub(crate) request: Option<ExecutionRequested>,
    /// The command to run it.
    pub(crate) command: Option<Arc<Event>>,
    /// The command to end it.
    pub(crate) cancel: Option<Arc<Event>>,
    pub(crate) terminal: bool,
    /// The newest sequence.
    pub(crate) head: u64,
}

impl RunLog {
    pub(crate) async fn read(store: &dyn EventStore, execution_id: &str) -> Result<Self, StoreError> {
        let (events, head) = read_log(store, &AggregateId::from(execution_id), &TYPES).await?;
        let mut log = Self { head, ..Self::default() };
        for event in events {
            match &event.payload {
                Some(Payload::ExecutionRequested(request)) => log.request = Some(request.clone()),
                Some(Payload::CreatePodCommand(_)) => log.command = Some(event),
                Some(Payload::DeletePodCommand(_)) => log.cancel = Some(event),
                Some(_) => log.terminal = true,
                None => {}
            }
        }
        Ok(log)
    }
}

/// Who asked for the end of a run, and why.
#[derive(Debug, Clone, Default)]
pub(crate) struct CancelRequest {
    pub(crate) reason: String,
    pub(crate) by: Option<String>,
}

impl CancelRequest {
    pub(crate) fn of(event: &Event) -> Self {
        match &event.payload {
            Some(Payload::DeletePodCommand(command)) => {
                Self { reason: command.reason.clone(), by: Some(event.user_id.clone()).filter(|user| !user.is_empty()) }
            }
            _ => Self::default(),
        }
    }
}

/// What to run for a request.
pub(crate) fn run_spec(request: &ExecutionRequested, attempt: u32) -> RunSpec {
    let mut files: Vec<SourceFile> = request
        .files
        .iter()
        .map(|file| SourceFile { path: file.path.clone(), content: file.content.clone() })
        .collect();
    if !request.script.is_empty() {
        let content = request.script.clone().into_bytes().into();
        files.push(SourceFile { path: request.runtime_filename.clone(), content });
    }
    // A name that begins with `-` would be taken for an option.
    let dash = if request.runtime_filename.starts_with('-') { "./" } else { "" };
    let file = format!("{dash}{}", request.runtime_filename);
    let mut command: Vec<String> = request.runtime_command.iter().map(|part| part.replace(FILE, &file)).collect();
    command.extend(request.args.iter().cloned());
    RunSpec {
        execution_id: request.execution_id.clone(),
        attempt,
        command,
        files,
        stdin: request.stdin.clone(),
        environment: request.environment.clone(),
        limits: Limits {
            wall_time: request.timeout.as_ref().and_then(from_duration).unwrap_or(Duration::from_secs(60)),
            output_bytes: u64::try_from(request.output_limit_bytes).unwrap_or_default(),
            memory_bytes: request.memory_limit.parse().ok(),
            cpu_millis: request.cpu_limit.trim_end_matches('m').parse().ok(),
        },
    }
}
