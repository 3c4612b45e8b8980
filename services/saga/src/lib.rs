//! The saga of an execution: allocate -> queue -> start -> await -> release, as a state machine over its log.
//!
//! [`machine`] is the state machine, a pure function without I/O; the group [`GROUP`] feeds it from the bus and appends what
//! it decides; [`view`] shows the same log as a `Saga`, which [`SagaService`] gives out. A document per saga serves look-ups
//! by the saga's id, lists, and the timer of its start. Neighbours: the scheduler answers `allocate_resources_command`, the
//! runner `create_pod_command`; this crate knows their events, not them.
//!
//! Invariants: each command is given at most once for an attempt; whatever ends an execution or an attempt, its slot is
//! released and its steps are undone in reverse; the saga ends once, after the result is known; a timer that is late, or
//! fires twice, changes nothing.

mod cancel;
mod config;
mod document;
mod error;
mod handlers;
mod list;
pub mod machine;
mod service;
mod timers;
pub mod view;
mod watch;

pub use config::SagaConfig;
pub use handlers::{GROUP, TOPICS, consumer_group};
pub use service::{Dependencies, SagaService};
