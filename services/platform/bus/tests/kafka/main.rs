//! The Kafka backend on librdkafka's mock cluster, and the relay on top of it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod cluster;
mod foreign;
mod producing;
mod rebalance;
mod relay;
mod suite;
mod topics;
