//! The events that tell what becomes of dead letters.

use prost::Message;
use runmesh_bus::{DeadLetter, LetterState};
use runmesh_events::{AggregateId, Event, EventId, NewEvent, TraceParent, json, to_timestamp};
use runmesh_proto::event::{
    DlqMessageDiscarded, DlqMessageReceived, DlqMessageRetried, DlqOperationRecorded, event::Payload,
};
use runmesh_store::{EventStore, Expected, StoreError, give_way};

use crate::view;

/// Who records the events.
const PRODUCER: &str = "dlq";

/// The log of what operators did that is about no single letter.
const OPERATIONS: &str = "dead-letter-operations";

/// Who has something done, and why.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct By<'a> {
    /// Who. Empty: a policy.
    pub(crate) actor: &'a str,
    /// Why.
    pub(crate) reason: &'a str,
}

/// Tells of a failure, or that a letter was given up. Telling it again adds nothing.
pub(crate) async fn failure(store: &dyn EventStore, letter: &DeadLetter) -> Result<(), StoreError> {
    let mut events = Vec::new();
    // One that was discarded by a person has been told of before.
    if letter.by.is_empty() {
        let received = DlqMessageReceived {
            dlq_event_id: letter.id.clone(),
            original_topic: letter.topic.clone(),
            original_event_type: letter.event_type() as i32,
            error: letter.error().to_owned(),
            retry_count: view::small(letter.retries),
            producer_id: letter.group.clone(),
            failed_at: Some(to_timestamp(letter.last_failed_at)),
            group: letter.group.clone(),
            severity: letter.severity.clone(),
            state: letter.state.as_str().to_owned(),
            next_retry_at: view::next_retry_at(letter),
            fingerprint: letter.fingerprint.clone(),
            original_event_id: letter.event_id.clone(),
            original_aggregate_id: letter.aggregate_id.clone(),
        };
        events.push(event(letter, "received", letter.attempt_count, received));
    }
    if letter.state == LetterState::Discarded {
        let discarded = DlqMessageDiscarded {
            dlq_event_id: letter.id.clone(),
            original_topic: letter.topic.clone(),
            original_event_type: letter.event_type() as i32,
            reason: letter.cause.clone(),
            retry_count: view::small(letter.retries),
            group: letter.group.clone(),
            actor: letter.by.clone(),
        };
        events.push(event(letter, "discarded", letter.attempt_count, discarded));
    }
    append(store, letter, events).await
}

/// Tells that letters are delivered again.
pub(crate) async fn retries(store: &dyn EventStore, letters: &[&DeadLetter], by: By<'_>) -> Result<(), StoreError> {
    let mut appends = Vec::with_capacity(letters.len());
    for (number, letter) in letters.iter().enumerate() {
        give_way(number).await;
        let retried = DlqMessageRetried {
            dlq_event_id: letter.id.clone(),
            original_topic: letter.topic.clone(),
            original_event_type: letter.event_type() as i32,
            retry_count: view::small(letter.retries),
            retry_topic: letter.topic.clone(),
            group: letter.group.clone(),
            actor: by.actor.to_owned(),
            reason: by.reason.to_owned(),
            redrive_id: letter.redrive.as_ref().map(|mark| mark.id.clone()).unwrap_or_default(),
            edited: letter.edit.is_some(),
        };
        appends.push((log_of(letter), vec![event(letter, "retried", letter.retries, retried)]));
    }
    store.append_each(appends).await.into_iter().try_for_each(|told| told.map(drop))
}

/// Tells what an operator did. The request is what they asked for.
pub(crate) async fn operation<M: Message>(
    store: &dyn EventStore,
    operation: &str,
    by: By<'_>,
    target: &str,
    request: &M,
    trace: &TraceParent,
) -> Result<(), StoreError> {
    let recorded = DlqOperationRecorded {
        operation: operation.to_owned(),
        actor: by.actor.to_owned(),
        reason: by.reason.to_owned(),
        target: target.to_owned(),
        request_json: json::of(&format!("runmesh.dlq.v1.{operation}Request"), request),
    };
    let event = NewEvent::root(PRODUCER, "", trace, recorded);
    store.append(&AggregateId::from(OPERATIONS), Expected::Any, vec![event]).await.map(drop)
}

/// An event about a letter: the number `number` of its kind, which tells it from others of the letter.
fn event(letter: &DeadLetter, kind: &str, number: u32, payload: impl Into<Payload>) -> NewEvent {
    let about = Event::decode(letter.original()).unwrap_or_default();
    let trace = TraceParent::passed_on(&about.traceparent);
    let event = NewEvent::root(PRODUCER, &about.user_id, &trace, payload);
    let correlation_id = if about.correlation_id.is_empty() { letter.id.clone() } else { about.correlation_id };
    NewEvent {
        event_id: EventId::derived(PRODUCER, &format!("{kind}/{}", letter.id), number),
        causation_id: letter.event_id.clone(),
        correlation_id,
        ..event
    }
}

/// The log of what becomes of a letter.
fn log_of(letter: &DeadLetter) -> AggregateId {
    AggregateId::from(letter.id.as_str())
}

async fn append(store: &dyn EventStore, letter: &DeadLetter, events: Vec<NewEvent>) -> Result<(), StoreError> {
    let log = log_of(letter);
    for event in events {
        store.append(&log, Expected::Any, vec![event]).await?;
    }
    Ok(())
}
