//! The gateway over a real listener, in front of a fake of the execution service.

#![allow(clippy::unwrap_used, reason = "tests")]

mod calls;
mod fake;
mod own_paths;
mod streams;
