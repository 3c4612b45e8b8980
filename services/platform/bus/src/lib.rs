//! How facts travel: topics, publishing, consumer groups, dead letters.
//!
//! [`Bus`] is the narrow trait, with the backends [`embedded`] (the event table of the SQLite store is the topics) and
//! [`kafka`]. Above it, once for both: [`Consumer`] (workers that keep the order of each key, contiguous commits,
//! retries, dead letters) and [`Relay`] (publishes what was appended). `conformance` (a feature) is the suite that every backend
//! passes. Neighbours: `runmesh-events` below, `runmesh-store` beside; services declare [`ConsumerGroup`]s.
//!
//! Invariants: a topic is an event type; a delivery ends handled, or as a durable dead letter, before its offset is
//! committed; offsets commit a contiguous prefix only; records of one key reach a group's handler in order, one at a
//! time.

mod bus;
#[cfg(feature = "conformance")]
pub mod conformance;
mod consumer;
mod dead_letter;
pub mod embedded;
mod error;
mod faults;
mod groups;
pub mod kafka;
mod membership;
mod offsets;
mod pace;
mod record;
mod relay;
mod retry_policy;

pub use bus::{Batch, Bus, Extent, GroupLag, Lane, Placement, Records, Subscription, TopicDrift, TopicReport};
pub use consumer::{
    Consumer, ConsumerGroup, Handler, HandlerError, InPlaceRetry, Incoming, PausedGroup, PausedGroups, Severity,
};
pub use dead_letter::{Attempt, DeadLetter, DeadLetters, Edit, LetterState, Pending, RedriveMark, RedriveOutcome};
pub use embedded::EmbeddedBus;
pub use error::BusError;
pub use faults::{FaultKind, FaultRule, Faults};
pub use groups::{GroupTable, KnownGroup};
pub use kafka::{KafkaBus, KafkaConfig};
pub use membership::Membership;
pub use offsets::ContiguousOffsets;
pub use pace::Pace;
pub use record::{Delivery, Headers, Record, header};
pub use relay::{RELAY, Relay};
pub use retry_policy::{Decision, LONGEST_WAIT, MOST_RETRIES, Override, Policies, PolicySet, RetryPolicy};
