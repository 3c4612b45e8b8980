//! Admission: which execution gets a slot, and when.
//!
//! [`queue`] decides, without I/O; [`handlers`] keeps a document for each claim on a slot, so that a restart finds every
//! slot as it was. Neighbours: the saga asks for slots and gives them back by commands; this crate answers with
//! `execution_accepted` and `execution_queued`.
//!
//! Invariants: never more slots are given than there are; a slot that is asked back is free; nothing waits while a slot
//! is free.

mod claim;
mod handlers;
pub mod queue;

pub use handlers::{GROUP, Scheduler, SchedulerConfig, SchedulerError, TOPICS};
