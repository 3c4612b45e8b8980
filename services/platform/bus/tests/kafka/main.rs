//! The Kafka backend on Apache Kafka, and the relay on top of it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod brokers;
mod faults;
mod foreign;
mod members;
mod rebalance;
mod relay;
mod security;
mod suite;
mod topics;
