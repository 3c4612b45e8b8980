//! The Kafka backend on librdkafka's mock cluster, and the relay on top of it.

mod cluster;
mod foreign;
mod producing;
mod rebalance;
mod relay;
mod suite;
mod topics;
