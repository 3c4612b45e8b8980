//! Events as clients see them.

use runmesh_events::{Catalog, EventType, json};
use runmesh_proto::event_log::LoggedEvent;
use runmesh_store::Stored;

/// The name of [`LoggedEvent`] in the contract.
const LOGGED_EVENT: &str = "runmesh.event_log.v1.LoggedEvent";

/// An event with its place.
pub(crate) fn logged(stored: &Stored) -> LoggedEvent {
    LoggedEvent { position: stored.position.0, topic: topic(stored).to_owned(), event: Some((*stored.event).clone()) }
}

/// The same as JSON.
pub(crate) fn logged_json(stored: &Stored) -> String {
    json::of(LOGGED_EVENT, &logged(stored))
}

/// The topic of an event. Empty: it is of a type that is not known here.
pub(crate) fn topic(stored: &Stored) -> &'static str {
    stored.event.payload.as_ref().map_or("", |payload| topic_of(payload.event_type()))
}

/// The topic of a type.
pub(crate) fn topic_of(event_type: EventType) -> &'static str {
    Catalog::get().name(event_type)
}
