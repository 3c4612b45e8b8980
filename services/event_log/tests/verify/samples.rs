//! Executions as the services record them.

use std::time::Duration;

use runmesh_events::{EventType, ExecutionId, NewEvent, Payload, TraceParent, to_duration};
use runmesh_proto::event::{
    ExecutionAccepted, ExecutionCompleted, ExecutionOutput, ExecutionQueued, ExecutionRequested, ExecutionStarted,
};

/// The topics that the sample groups read.
pub(crate) const TOPICS: [EventType; 5] = [
    EventType::ExecutionRequested,
    EventType::ExecutionAccepted,
    EventType::ExecutionStarted,
    EventType::ExecutionOutput,
    EventType::ExecutionCompleted,
];

/// A new execution's id.
pub(crate) fn id() -> String {
    ExecutionId::new().to_string()
}

/// A request with this limit.
pub(crate) fn requested(limit: Duration) -> Payload {
    ExecutionRequested { timeout: Some(to_duration(limit)), ..Default::default() }.into()
}

pub(crate) fn queued() -> Payload {
    ExecutionQueued::default().into()
}

pub(crate) fn accepted() -> Payload {
    ExecutionAccepted::default().into()
}

pub(crate) fn started() -> Payload {
    ExecutionStarted::default().into()
}

pub(crate) fn output(data: impl Into<Vec<u8>>) -> Payload {
    ExecutionOutput { data: data.into().into(), ..Default::default() }.into()
}

pub(crate) fn completed() -> Payload {
    ExecutionCompleted::default().into()
}

/// What an execution with three pieces of output records: 7 events.
pub(crate) fn whole() -> Vec<Payload> {
    let mut payloads = vec![requested(Duration::from_secs(60)), accepted(), started()];
    payloads.extend((0..3).map(|piece| output(format!("piece {piece}"))));
    payloads.push(completed());
    payloads
}

/// An event of this payload.
pub(crate) fn event(payload: Payload) -> NewEvent {
    NewEvent::root("verify-test", "", &TraceParent::new_root(), payload)
}
