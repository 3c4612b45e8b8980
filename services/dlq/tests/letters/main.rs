//! Dead letters on a store and a bus of their own, with a group that fails as the test says.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod act;
mod counts;
mod flaky;
mod mesh;
mod policies;
mod redrives;
mod schedule;
mod watch;
