//! Keeps what executions produced, and gives it out: ResultService.
//!
//! Neighbours: the runner records output and verdicts in an execution's log; the group [`GROUP`] makes a document of
//! them. Invariants: every execution that ends has one result or says why not; a result never claims more than it has.

mod assemble;
mod document;
mod handlers;
mod service;

pub use handlers::{GROUP, SEES_REPLAYS, TOPICS, consumer_group, read_model};
pub use service::ResultService;
