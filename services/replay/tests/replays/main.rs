//! Replays on a store and a bus of their own, with groups that take replayed events and one that does not.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod bad_input;
mod control;
mod files;
mod mesh;
mod preview;
mod projections;
mod targets;
