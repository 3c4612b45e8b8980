//! What the runner wants to know of an execution's log.

use std::sync::Arc;

use runmesh_events::{AggregateId, Event, EventType, Payload, lifecycle};
use runmesh_proto::event::{CaseCounts, CaseVerdict, CreatePodCommand, ExecutionRequested};
use runmesh_store::{EventStore, StoreError, read_log};

const TYPES: [EventType; 10] = [
    EventType::ExecutionRequested,
    EventType::CreatePodCommand,
    EventType::DeletePodCommand,
    EventType::PodCreated,
    EventType::ExecutionStarted,
    EventType::PodTerminated,
    lifecycle::TERMINAL[0],
    lifecycle::TERMINAL[1],
    lifecycle::TERMINAL[2],
    lifecycle::TERMINAL[3],
];

/// An execution's log, as far as the runner is concerned.
#[derive(Debug, Default)]
pub(crate) struct RunLog {
    pub(crate) request: Option<ExecutionRequested>,
    /// The newest command to run it.
    pub(crate) command: Option<Arc<Event>>,
    /// The attempt that command is for. 0: there is none.
    pub(crate) attempt: u32,
    /// The event by which a runner has begun with that attempt. `None`: none has.
    pub(crate) begun_by: Option<String>,
    /// How many attempts have begun, with that one.
    pub(crate) begun: i32,
    /// The newest attempt that was lost with its runner. 0: none was.
    pub(crate) lost: u32,
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
                Some(Payload::CreatePodCommand(command)) => {
                    log.attempt = attempt_of(command);
                    log.begun_by = None;
                    log.command = Some(event);
                }
                Some(Payload::PodCreated(_) | Payload::ExecutionStarted(_)) => {
                    log.begun += i32::from(log.begun_by.is_none());
                    log.begun_by.get_or_insert_with(|| event.event_id.clone());
                }
                Some(Payload::PodTerminated(ended)) => {
                    log.lost = log.lost.max(u32::try_from(ended.lost_attempt).unwrap_or_default());
                }
                Some(Payload::DeletePodCommand(_)) => log.cancel = Some(event),
                Some(_) => log.terminal = true,
                None => {}
            }
        }
        Ok(log)
    }
}

impl RunLog {
    /// Whether nothing is to be run any more of this attempt: the execution has ended or was deleted, or the attempt was given
    /// up.
    pub(crate) fn is_over(&self, attempt: u32) -> bool {
        self.terminal || self.request.is_none() || self.lost >= attempt
    }
}

/// Which attempt a command is for, from 1.
pub(crate) fn attempt_of(command: &CreatePodCommand) -> u32 {
    u32::try_from(lifecycle::attempt(command.attempt)).unwrap_or(1)
}

/// What became of so many cases, by the log. `None`: there are none.
pub(crate) async fn counts(
    store: &dyn EventStore,
    execution_id: &str,
    cases: usize,
) -> Result<Option<CaseCounts>, StoreError> {
    if cases == 0 {
        return Ok(None);
    }
    let total = i32::try_from(cases).unwrap_or(i32::MAX);
    let (events, _) = read_log(store, &AggregateId::from(execution_id), &[EventType::ExecutionRunning]).await?;
    let mut counts = CaseCounts { total, not_run: total, ..CaseCounts::default() };
    for event in &events {
        let Some(Payload::ExecutionRunning(running)) = &event.payload else { continue };
        let Some(result) = &running.case_result else { continue };
        counts.not_run -= 1;
        match result.verdict() {
            CaseVerdict::Accepted => counts.accepted += 1,
            _ => counts.rejected += 1,
        }
    }
    Ok(Some(counts))
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
