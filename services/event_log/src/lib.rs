//! The log of all events, and what became of each: EventLogService.
//!
//! [`Verifier`] compares the store with the topics and with what the consumer groups have done, and says what is lost, what
//! breaks an invariant, and what is on its way; [`EventLogService`] offers it as a stream. Neighbours: the node hands in
//! the store, the bus and the table of all groups, which changes with the runners; nothing here changes any of them.
//!
//! Invariants: what goes on while a verification runs is never taken for a loss: a loss is said only after a second look;
//! memory is bounded by the largest topic and the number of aggregates, not by the size of events.

mod cut;
mod ends;
mod error;
mod groups;
mod letters;
mod logs;
mod report;
mod service;
mod topic;
mod verifier;

pub use error::VerifyError;
pub use service::EventLogService;
pub use verifier::{Dependencies, Verifier, VerifyOptions};
