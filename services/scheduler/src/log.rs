//! What the scheduler wants to know of an execution's log.

use std::{sync::Arc, time::SystemTime};

use runmesh_events::{Event, EventType, Payload, from_timestamp, lifecycle};

use crate::{
    claim::priority,
    queue::{Job, Size},
};

/// What is read of a log.
pub(crate) const TYPES: [EventType; 11] = [
    EventType::ExecutionRequested,
    EventType::ExecutionAccepted,
    EventType::AllocateResourcesCommand,
    EventType::ReleaseResourcesCommand,
    EventType::PodCreated,
    EventType::ExecutionStarted,
    EventType::PodTerminated,
    lifecycle::TERMINAL[0],
    lifecycle::TERMINAL[1],
    lifecycle::TERMINAL[2],
    lifecycle::TERMINAL[3],
];

/// An execution's log, as far as the scheduler is concerned: of its newest attempt.
#[derive(Debug)]
pub(crate) struct Log<'a> {
    pub(crate) job: Job,
    pub(crate) allocate: Option<&'a Event>,
    /// Since when it has its slot, and whose it is.
    pub(crate) accepted: Option<Accepted>,
    /// Its runner has begun with it.
    pub(crate) begun: bool,
    /// It is recorded that its runner was lost.
    pub(crate) lost: bool,
    /// Ended, or its slot was asked back, or it was deleted.
    pub(crate) over: bool,
}

/// A slot as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) at: SystemTime,
    /// The runner whose slot it is. Empty: whichever takes it, as it was before there were such names.
    pub(crate) runner: String,
}

impl<'a> Log<'a> {
    pub(crate) fn of(execution_id: &str, events: &'a [Arc<Event>]) -> Self {
        let job = Job {
            execution_id: execution_id.to_owned(),
            user_id: String::new(),
            priority: priority(0),
            attempt: 0,
            since: SystemTime::UNIX_EPOCH,
            size: Size::default(),
        };
        let over = events.is_empty();
        let mut log = Log { job, allocate: None, accepted: None, begun: false, lost: false, over };
        for event in events {
            let at = event.occurred_at.as_ref().and_then(from_timestamp).unwrap_or_else(SystemTime::now);
            match &event.payload {
                Some(Payload::ExecutionRequested(request)) => {
                    log.job.priority = priority(request.priority);
                    log.job.user_id.clone_from(&request.user_id);
                    let cpu = request.cpu_request.trim_end_matches('m').parse();
                    let memory = request.memory_request.parse();
                    log.job.size =
                        Size { cpu_millis: cpu.unwrap_or_default(), memory_bytes: memory.unwrap_or_default() };
                }
                Some(Payload::AllocateResourcesCommand(command)) => {
                    (log.job.attempt, log.accepted, log.over) = (lifecycle::attempt(command.attempt), None, false);
                    (log.begun, log.lost) = (false, false);
                    if log.allocate.replace(event).is_none() {
                        // One whose runner was lost does not wait as if it had come now.
                        log.job.since = at;
                    }
                }
                Some(Payload::ExecutionAccepted(accepted)) => {
                    log.accepted = Some(Accepted { at, runner: accepted.runner.clone() });
                }
                Some(Payload::PodCreated(_) | Payload::ExecutionStarted(_)) => log.begun = true,
                Some(Payload::PodTerminated(ended)) => log.lost |= ended.lost_attempt == log.job.attempt,
                Some(_) => log.over = true,
                None => {}
            }
        }
        log
    }
}
