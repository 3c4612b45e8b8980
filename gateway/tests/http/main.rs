//! The gateway over a real listener, in front of fakes of two services.

#![allow(clippy::unwrap_used, reason = "tests")]

mod calls;
mod downloads;
mod fake;
mod letters;
mod own_paths;
mod streams;
