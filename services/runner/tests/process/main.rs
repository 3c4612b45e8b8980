//! The process sandbox with real processes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod endings;
mod harness;
mod hygiene;
mod output;
mod start;
