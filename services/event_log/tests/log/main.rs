//! The log of events by its service: in pages, one by one, as numbers, as files, as it grows; and what is deleted from it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod bad_input;
mod bed;
mod delete;
mod export;
mod query;
mod related;
mod shared;
mod stats;
mod tail;
