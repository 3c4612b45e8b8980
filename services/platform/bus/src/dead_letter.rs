//! Dead letters: deliveries that could not be handled, kept for a person.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use runmesh_events::{Catalog, GroupName};
use runmesh_store::{Document, Index, IndexValue, StoreError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Delivery, header};

/// The namespace of dead letters' ids: a fixed random UUID.
const NAMESPACE: Uuid = Uuid::from_u128(0x1d9d_75be_2a40_4f0f_8c4c_3c7e_9e0b_6f15);

/// One try to handle a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The error and its causes, the outermost first.
    pub errors: Vec<String>,
}

/// A delivery that a group could not handle. It is durable before the delivery's offset is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The id: the same for each delivery of the record to the group.
    pub id: String,
    /// The group that failed.
    pub group: String,
    /// The record's topic.
    pub topic: String,
    /// The record's partition.
    pub partition: i32,
    /// The record's offset.
    pub offset: u64,
    /// The event's id. Empty when the record could not be decoded.
    pub event_id: String,
    /// The aggregate's id, or what stands for it in the key.
    pub aggregate_id: String,
    /// The record's time.
    pub record_time: SystemTime,
    /// The record's key, in base64.
    pub key: String,
    /// The record's headers, values in base64.
    pub headers: Vec<(String, String)>,
    /// The record's value, in base64: the raw bytes, decodable or not.
    pub value: String,
    /// `transient`, `permanent` or `poison`.
    pub severity: String,
    /// Every try, the oldest first. The newest 20.
    pub attempts: Vec<Attempt>,
    /// How many tries there were.
    pub attempt_count: u32,
    /// When it first failed for good.
    pub first_failed_at: SystemTime,
    /// When it last failed for good.
    pub last_failed_at: SystemTime,
}

/// How many tries a dead letter keeps.
const KEPT_ATTEMPTS: usize = 20;

impl DeadLetter {
    /// The dead letter of a delivery that `group` could not handle.
    pub fn new(group: GroupName, delivery: &Delivery, severity: &str, attempts: Vec<Attempt>) -> Self {
        let event = delivery.event().ok();
        let topic = Catalog::get().topic(delivery.event_type).map_or("", |topic| topic.name.as_str());
        let headers = delivery.headers();
        // A redrive of an event is the same letter again; a record without an event has only its place.
        let event_id = event.as_ref().map(|event| event.event_id.clone()).unwrap_or_default();
        let id = if event_id.is_empty() {
            derived_id(&format!("{group}\n{topic}\n{}\n{}", delivery.partition, delivery.offset))
        } else {
            Self::id_of(group, &event_id)
        };
        let now = SystemTime::now();
        Self {
            id,
            group: group.to_string(),
            topic: topic.to_owned(),
            partition: delivery.partition,
            offset: delivery.offset,
            aggregate_id: event
                .map(|event| event.aggregate_id.clone())
                .unwrap_or_else(|| String::from_utf8_lossy(&delivery.key).into_owned()),
            event_id,
            record_time: delivery.timestamp,
            key: BASE64_STANDARD.encode(&delivery.key),
            headers: headers.into_iter().map(|(name, value)| (name, BASE64_STANDARD.encode(value))).collect(),
            value: BASE64_STANDARD.encode(&delivery.value),
            severity: severity.to_owned(),
            attempt_count: u32::try_from(attempts.len()).unwrap_or(u32::MAX),
            attempts,
            first_failed_at: now,
            last_failed_at: now,
        }
    }

    /// The id of the letter that `group` has or would have of this event.
    pub fn id_of(group: GroupName, event_id: &str) -> String {
        derived_id(&format!("{group}\n{event_id}"))
    }

    /// The letter with what a new failure of the same record adds.
    #[must_use]
    pub fn failed_again(mut self, newer: Self) -> Self {
        self.attempt_count = self.attempt_count.saturating_add(newer.attempt_count);
        self.attempts.extend(newer.attempts);
        let surplus = self.attempts.len().saturating_sub(KEPT_ATTEMPTS);
        self.attempts.drain(..surplus);
        Self {
            first_failed_at: self.first_failed_at,
            attempts: self.attempts,
            attempt_count: self.attempt_count,
            ..newer
        }
    }

    /// Which redrive the record was. `None`: it was not one.
    pub fn redrive_attempt(delivery: &Delivery) -> Option<u32> {
        delivery.header(header::ATTEMPT)?.parse().ok()
    }
}

fn derived_id(identity: &str) -> String {
    Uuid::new_v5(&NAMESPACE, identity.as_bytes()).to_string()
}

impl Document for DeadLetter {
    const COLLECTION: &'static str = "dead_letters";
    const INDEXES: &'static [Index] = &[
        Index { name: "by_time", fields: &["last_failed_at"] },
        Index { name: "by_group", fields: &["group", "last_failed_at"] },
        Index { name: "by_topic", fields: &["topic", "last_failed_at"] },
        Index { name: "by_aggregate", fields: &["aggregate_id", "last_failed_at"] },
    ];

    fn id(&self) -> String {
        self.id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![
            ("last_failed_at", self.last_failed_at.into()),
            ("group", self.group.as_str().into()),
            ("topic", self.topic.as_str().into()),
            ("aggregate_id", self.aggregate_id.as_str().into()),
        ]
    }

    fn encode(&self) -> Vec<u8> {
        // Strings, numbers and times always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("a dead letter: {error}")))
    }
}
