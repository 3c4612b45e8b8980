//! Events as they are recorded, for every backend.

use std::{sync::Arc, time::SystemTime};

use prost::Message as _;
use runmesh_events::{AggregateId, Event, NewEvent, Payload, to_timestamp};

use crate::StoreError;

/// The event with its place and its time.
pub(crate) fn record(new: &NewEvent, aggregate: &AggregateId, sequence: u64, at: SystemTime) -> Event {
    Event {
        event_id: new.event_id.to_string(),
        aggregate_id: aggregate.as_str().to_owned(),
        sequence,
        occurred_at: Some(to_timestamp(at)),
        causation_id: new.causation_id.clone(),
        correlation_id: new.correlation_id.clone(),
        producer: new.producer.clone(),
        user_id: new.user_id.clone(),
        traceparent: new.traceparent.clone(),
        payload: Some(new.payload.clone()),
    }
}

/// The event with another payload of its type.
pub(crate) fn with_payload(event: &Event, payload: Payload) -> Result<Event, StoreError> {
    let found = event.payload.as_ref().map(Payload::event_type);
    if found != Some(payload.event_type()) {
        return Err(StoreError::Invalid(format!("event {} is not of the type of its new payload", event.event_id)));
    }
    Ok(Event { payload: Some(payload), ..event.clone() })
}

/// The event that the bytes are of.
pub(crate) fn decode(body: &[u8]) -> Result<Arc<Event>, StoreError> {
    Event::decode(body).map(Arc::new).map_err(|error| StoreError::Corrupt(format!("an event: {error}")))
}

/// What every backend refuses to append.
pub(crate) fn check_append(aggregate: &AggregateId, events: &[NewEvent]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Err(StoreError::Invalid("an append needs at least one event".to_owned()));
    }
    if aggregate.as_str().is_empty() {
        return Err(StoreError::Invalid("an append needs an aggregate".to_owned()));
    }
    Ok(())
}

/// A time in microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A number as databases keep it. What is too large for them is larger than all that they hold.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
