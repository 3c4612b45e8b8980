//! Events before they are recorded.

use runmesh_proto::event::{Event, EventType, event::Payload};

use crate::{EventId, GroupName, TraceParent};

/// An event that is about to be appended. Its place (aggregate, sequence) and its time are given to it by the append.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The event's id.
    pub event_id: EventId,
    /// The event that caused it. Empty: a client's call did.
    pub causation_id: String,
    /// The same in all events that follow from one call.
    pub correlation_id: String,
    /// The service that records it.
    pub producer: String,
    /// The user on whose behalf it happens. Empty: none.
    pub user_id: String,
    /// The trace context of the work that records it.
    pub traceparent: String,
    /// What happened.
    pub payload: Payload,
}

impl NewEvent {
    /// An event that a client's call causes: it starts a correlation of its own.
    pub fn root(producer: &str, user_id: &str, trace: &TraceParent, payload: impl Into<Payload>) -> Self {
        let event_id = EventId::new();
        Self {
            event_id,
            causation_id: String::new(),
            correlation_id: event_id.to_string(),
            producer: producer.to_owned(),
            user_id: user_id.to_owned(),
            traceparent: trace.to_string(),
            payload: payload.into(),
        }
    }

    /// An event that a client's call adds to the log that `first` begins.
    pub fn within(first: &Event, producer: &str, trace: &TraceParent, payload: impl Into<Payload>) -> Self {
        Self { correlation_id: first.correlation_id.clone(), ..Self::root(producer, &first.user_id, trace, payload) }
    }

    /// The same with an id that depends on these alone, so that it is appended once, however often it is tried.
    #[must_use]
    pub fn once(self, purpose: &str, about: &str) -> Self {
        Self { event_id: EventId::derived(purpose, about, 0), ..self }
    }

    /// The type of the event.
    pub fn event_type(&self) -> EventType {
        self.payload.event_type()
    }
}

/// The event that others follow from.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    event: &'a Event,
    group: GroupName,
    trace: Option<TraceParent>,
}

impl<'a> Cause<'a> {
    /// `event`, as `group` handles it.
    pub fn new(event: &'a Event, group: GroupName) -> Self {
        Self { event, group, trace: None }
    }

    /// The same, where the work of handling it is known to the trace by this context.
    #[must_use]
    pub fn traced(self, trace: TraceParent) -> Self {
        Self { trace: Some(trace), ..self }
    }

    /// The event number `ordinal` that the group derives from the cause. A group that derives several events from one
    /// cause numbers them 0, 1, 2 and so on, the same way each time.
    pub fn derive(&self, ordinal: u32, payload: impl Into<Payload>) -> NewEvent {
        let event = self.event;
        self.follow(EventId::derived(self.group.as_str(), &event.event_id, ordinal), payload)
    }

    /// An event that follows from the cause but is new each time, such as a piece of output.
    pub fn observe(&self, payload: impl Into<Payload>) -> NewEvent {
        self.follow(EventId::new(), payload)
    }

    fn follow(&self, event_id: EventId, payload: impl Into<Payload>) -> NewEvent {
        let event = self.event;
        NewEvent {
            event_id,
            causation_id: event.event_id.clone(),
            correlation_id: event.correlation_id.clone(),
            producer: self.group.as_str().to_owned(),
            user_id: event.user_id.clone(),
            traceparent: self.trace.unwrap_or_else(|| TraceParent::passed_on(&event.traceparent)).to_string(),
            payload: payload.into(),
        }
    }
}
