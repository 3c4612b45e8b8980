//! Admission: which execution gets a slot, and when.
//!
//! [`queue`] decides, without I/O; the handlers keep a document for each claim on a slot, so that a restart finds every
//! slot as it was; [`QueueService`] tells who waits and why. Neighbours: the saga asks for slots and gives them back by
//! commands; this crate answers with `execution_accepted` and `execution_queued`; runners say what they offer as members
//! of the kind [`RUNNERS`].
//!
//! Invariants: never more slots are given than there are; a slot that is asked back is free; nothing waits while a slot
//! is free that it may have; nothing waits for ever.

mod claim;
mod handlers;
mod log;
mod look;
pub mod queue;
mod service;

pub use handlers::{GROUP, RUNNERS, Scheduler, SchedulerConfig, SchedulerError, TOPICS};
pub use service::QueueService;
