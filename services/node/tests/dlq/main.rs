//! `runmesh dlq`, the built binary, in front of a fake of DeadLetterService.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;
mod letters;
mod redrives;
