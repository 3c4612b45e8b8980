//! ExecutionService: creates executions, shows them, cancels them, and streams their logs.
//!
//! An execution is one aggregate of the event store; what this crate shows of it is a fold over that log ([`state`]),
//! so it is never behind it. A document per execution, kept by the group [`GROUP`], serves lists alone. Neighbours: the
//! scheduler, the saga, the runner and the results service write to the same log; this crate knows their events, not
//! them.
//!
//! Invariants: a request is refused with the names of its fields before anything is stored; a stream yields the log's
//! client-visible events in order, without a gap or a duplicate, and ends only with the log.

mod cancel;
mod cases;
mod config;
mod create;
mod delete;
mod document;
mod error;
mod examples;
mod list;
mod projection;
mod service;
mod spec;
pub mod state;
mod validate;
mod wait;
mod watch;

pub use config::{ExecutionConfig, LimitsConfig};
pub use delete::Erasure;
pub use projection::{GROUP, SEES_REPLAYS, TOPICS, consumer_group, read_model};
pub use service::{Dependencies, ExecutionService, Runtimes, api_name, is_missing};
