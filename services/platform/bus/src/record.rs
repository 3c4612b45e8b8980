//! Records as they travel.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use prost::Message as _;
use runmesh_events::{Catalog, Event, EventType, from_timestamp};

use crate::{BusError, Lane};

/// The names of headers.
pub mod header {
    /// The media type of the value.
    pub const CONTENT_TYPE: &str = "content-type";
    /// CloudEvents: the version of the specification.
    pub const CE_SPECVERSION: &str = "ce_specversion";
    /// CloudEvents: the event's id.
    pub const CE_ID: &str = "ce_id";
    /// CloudEvents: who recorded the event.
    pub const CE_SOURCE: &str = "ce_source";
    /// CloudEvents: the event's type.
    pub const CE_TYPE: &str = "ce_type";
    /// CloudEvents: what the event is about, the aggregate's id.
    pub const CE_SUBJECT: &str = "ce_subject";
    /// CloudEvents: when it was recorded, RFC 3339.
    pub const CE_TIME: &str = "ce_time";
    /// CloudEvents extension: the event's sequence in its aggregate.
    pub const CE_SEQUENCE: &str = "ce_sequence";
    /// The W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// Only this group handles the record: it is a redrive, or a replay, for it. Other groups skip it.
    pub const REDRIVE_GROUP: &str = "runmesh-redrive-group";
    /// Which attempt a redrive is, from 2.
    pub const ATTEMPT: &str = "runmesh-attempt";
    /// The dead letter that a redrive is of.
    pub const DEAD_LETTER: &str = "runmesh-dead-letter";
    /// The headers that a redrive adds to those of its event.
    pub const OF_REDRIVES: [&str; 3] = [REDRIVE_GROUP, ATTEMPT, DEAD_LETTER];
    /// The replay that the record belongs to. Handlers with outside effects skip it unless they opted in.
    pub const REPLAY: &str = "runmesh-replay";
}

/// The media type of a record's value.
const PROTOBUF: &str = "application/protobuf";

/// A record's headers, in order.
pub type Headers = Vec<(String, Bytes)>;

/// A record before it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The event type whose topic it goes to.
    pub event_type: EventType,
    /// The key: records of one key keep their order.
    pub key: Bytes,
    /// The headers.
    pub headers: Headers,
    /// The value.
    pub value: Bytes,
    /// The record's time.
    pub timestamp: SystemTime,
}

impl Record {
    /// The record of an event: keyed by its aggregate, with CloudEvents headers in binary mode.
    ///
    /// # Errors
    /// [`BusError::Invalid`] when the event has no payload.
    pub fn of(event: &Event) -> Result<Self, BusError> {
        let Some(payload) = &event.payload else {
            return Err(BusError::Invalid(format!("event {} has no payload", event.event_id)));
        };
        let timestamp = event.occurred_at.as_ref().and_then(from_timestamp).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Self {
            event_type: payload.event_type(),
            key: Bytes::copy_from_slice(event.aggregate_id.as_bytes()),
            headers: headers_of(event, payload.event_type()),
            value: event.encode_to_vec().into(),
            timestamp,
        })
    }
}

fn headers_of(event: &Event, event_type: EventType) -> Headers {
    let topic = Catalog::get().name(event_type);
    let time = event.occurred_at.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut headers: Headers = vec![
        (header::CE_SPECVERSION.into(), Bytes::from_static(b"1.0")),
        (header::CE_ID.into(), Bytes::copy_from_slice(event.event_id.as_bytes())),
        (header::CE_SOURCE.into(), format!("/runmesh/{}", event.producer).into()),
        (header::CE_TYPE.into(), format!("runmesh.event.v1.{topic}").into()),
        (header::CE_SUBJECT.into(), Bytes::copy_from_slice(event.aggregate_id.as_bytes())),
        (header::CE_TIME.into(), time.into()),
        (header::CE_SEQUENCE.into(), event.sequence.to_string().into()),
        (header::CONTENT_TYPE.into(), Bytes::from_static(PROTOBUF.as_bytes())),
    ];
    if !event.traceparent.is_empty() {
        headers.push((header::TRACEPARENT.into(), Bytes::copy_from_slice(event.traceparent.as_bytes())));
    }
    headers
}

/// A record as a group gets it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The offsets that it is one of.
    pub lane: Lane,
    /// Its offset in the lane.
    pub offset: u64,
    /// The event type whose topic it is on.
    pub event_type: EventType,
    /// The partition of the topic.
    pub partition: i32,
    /// The key.
    pub key: Bytes,
    /// The headers that travelled with it. The embedded bus derives those of an event only when asked: see
    /// [`Delivery::headers`].
    pub extra_headers: Headers,
    /// The value.
    pub value: Bytes,
    /// The record's time.
    pub timestamp: SystemTime,
    /// The event, where the backend has decoded it already.
    pub decoded: Option<Arc<Event>>,
}

impl Delivery {
    /// The event that the record carries.
    ///
    /// # Errors
    /// In words, why the value is not an event of the topic's type.
    pub fn event(&self) -> Result<Arc<Event>, String> {
        let event = match &self.decoded {
            Some(event) => Arc::clone(event),
            None => Arc::new(Event::decode(self.value.clone()).map_err(|error| error.to_string())?),
        };
        match &event.payload {
            Some(payload) if payload.event_type() == self.event_type => Ok(event),
            Some(payload) => {
                Err(format!("the value is an event of type {}, not of the topic's", payload.event_type().as_str_name()))
            }
            None => Err("the value is an event without a payload that is known here".to_owned()),
        }
    }

    /// The value of a header that marks the record (redrive, replay, attempt).
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.extra_headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }

    /// Whether it is a redrive or a replay, which nobody waits for.
    pub(crate) fn is_repeated(&self) -> bool {
        self.header(header::REDRIVE_GROUP).or_else(|| self.header(header::REPLAY)).is_some()
    }

    /// All headers of the record.
    pub fn headers(&self) -> Headers {
        match &self.decoded {
            Some(event) if self.extra_headers.is_empty() => headers_of(event, self.event_type),
            _ => self.extra_headers.clone(),
        }
    }
}
