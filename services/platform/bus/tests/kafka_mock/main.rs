//! The Kafka backend on librdkafka's mock cluster, for troubles that a real broker can't be told to have.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod cluster;
mod producing;
