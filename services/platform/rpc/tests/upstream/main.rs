//! A channel and the servers behind it, on loopback.

#![allow(clippy::unwrap_used, reason = "tests")]

mod balancing;
mod deadlines;
mod ejection;
mod names;
mod retries;
mod server;
mod streams;
