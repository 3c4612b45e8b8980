//! What an event is, before it is stored or travels: its ids, its envelope, its place in the catalog of types, and the
//! trace that it belongs to.
//!
//! Neighbours: `runmesh-store` keeps events, `runmesh-bus` moves them. This crate does no I/O. Invariants: the catalog is
//! read from the descriptors and from nowhere else; an id derived from (group, cause, ordinal) is the same each time.

mod catalog;
mod event;
mod id;
pub mod json;
pub mod lifecycle;
mod span;
mod text;
mod time;
mod trace;

pub use catalog::{Catalog, TopicSpec, UnknownTopic};
pub use event::{Cause, NewEvent};
pub use id::{AggregateId, EventId, ExecutionId, GroupName, InvalidId};
pub use runmesh_proto::event::{Category, Event, EventType, RetryPreset, event::Payload};
pub use text::payload_contains;
pub use time::{from_duration, from_timestamp, to_duration, to_timestamp};
pub use trace::TraceParent;
