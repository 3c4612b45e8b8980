//! The log of all events, and what became of each: EventLogService.
//!
//! [`EventLogService`] shows the events of the store: in pages, one with what it follows from, as numbers, as a file, and as they
//! are recorded; and it deletes what one says. [`Verifier`] compares the store with the topics and with what the consumer groups
//! have done, and says what is lost, what breaks an invariant, and what is on its way; the service offers it as a stream.
//! Neighbours: the node hands in the store, the bus and the table of all groups, which changes with the runners. But for a
//! deletion, nothing here changes any of them.
//!
//! Invariants: what goes on while a verification runs is never taken for a loss: a loss is said only after a second look;
//! its memory is bounded by the largest topic and the number of aggregates, that of all else by one read; a log never gets a
//! hole; a payload is archived before it is deleted.

mod cut;
mod delete;
mod ends;
mod error;
mod export;
mod groups;
mod letters;
mod logs;
mod query;
mod reading;
mod related;
mod report;
mod service;
mod stats;
mod tail;
mod topic;
mod verifier;
mod view;

pub use error::VerifyError;
pub use service::EventLogService;
pub use verifier::{Dependencies, Verifier, VerifyOptions};
