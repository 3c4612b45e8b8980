//! The test servers themselves: that they start, survive what tests do to them, and leave nothing behind.
#![allow(clippy::unwrap_used, reason = "a test may fail this way")]

mod crash;
mod front;
mod kafka;
mod mongodb;
mod processes;
