//! The saga of an execution: allocate -> queue -> start -> await -> release, as a state machine over its log.
//!
//! [`machine`] is the state machine, a pure function without I/O; [`handlers`] feeds it from the bus and appends what it
//! decides. Neighbours: the scheduler answers `allocate_resources_command`, the runner `create_pod_command`; this crate
//! knows their events, not them.
//!
//! Invariants: each command is given at most once; whatever ends an execution, its slot is released; the saga ends after
//! the result is known.

mod handlers;
pub mod machine;

pub use handlers::{GROUP, TOPICS, consumer_group};
