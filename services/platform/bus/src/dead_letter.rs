//! Dead letters: deliveries that could not be handled, kept until they are, or a person gives them up.

mod fingerprint;
mod index;
mod letters;
mod state;

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use runmesh_events::{Catalog, EventType, GroupName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Decision, Delivery, Record, RetryPolicy, Severity, header};
pub use letters::DeadLetters;
pub(crate) use letters::Redrive;
pub use state::{Attempt, Edit, LetterState, Pending, RedriveMark, RedriveOutcome};

/// The namespace of dead letters' ids: a fixed random UUID.
const NAMESPACE: Uuid = Uuid::from_u128(0x1d9d_75be_2a40_4f0f_8c4c_3c7e_9e0b_6f15);

/// How many tries a dead letter keeps.
const KEPT_ATTEMPTS: usize = 20;

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
    /// The event's sequence in its aggregate. 0: it could not be decoded.
    #[serde(default)]
    pub sequence: u64,
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
    /// How far it is.
    #[serde(default)]
    pub state: LetterState,
    /// Why it is in its state.
    #[serde(default)]
    pub cause: String,
    /// Who brought it into its state. Empty: its policy, or its group.
    #[serde(default)]
    pub by: String,
    /// When its state changed.
    #[serde(default = "epoch")]
    pub changed_at: SystemTime,
    /// The same for letters of one cause.
    #[serde(default)]
    pub fingerprint: String,
    /// How often it was delivered again.
    #[serde(default)]
    pub retries: u32,
    /// When it is delivered again. Only where it is scheduled.
    #[serde(default)]
    pub retry_at: Option<SystemTime>,
    /// Whether something has to be done about it by the dead letters' service: to tell of a failure, to deliver what waits
    /// behind it.
    #[serde(default)]
    pub pending: Option<Pending>,
    /// Whether later events of its aggregate wait in the group until it is over.
    #[serde(default)]
    pub keeps_order: bool,
    /// The letter that has to be over before this one is delivered.
    #[serde(default)]
    pub waits_behind: Option<String>,
    /// The redrive that took it last, and what came of that.
    #[serde(default)]
    pub redrive: Option<RedriveMark>,
    /// What stands for the original value.
    #[serde(default)]
    pub edit: Option<Edit>,
}

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

impl DeadLetter {
    /// The dead letter of a delivery that `group` could not handle, as of `now`, before it is decided what is done about it.
    pub fn new(
        group: GroupName,
        delivery: &Delivery,
        severity: Severity,
        attempts: Vec<Attempt>,
        now: SystemTime,
    ) -> Self {
        let event = delivery.event().ok();
        let topic = Catalog::get().name(delivery.event_type);
        let headers = delivery.headers();
        let event_id = event.as_ref().map(|event| event.event_id.clone()).unwrap_or_default();
        let errors = attempts.last().map(|attempt| attempt.errors.as_slice()).unwrap_or_default();
        Self {
            id: Self::id_of_delivery(group, delivery),
            group: group.to_string(),
            topic: topic.to_owned(),
            partition: delivery.partition,
            offset: delivery.offset,
            sequence: event.as_ref().map_or(0, |event| event.sequence),
            aggregate_id: event
                .map(|event| event.aggregate_id.clone())
                .unwrap_or_else(|| String::from_utf8_lossy(&delivery.key).into_owned()),
            event_id,
            record_time: delivery.timestamp,
            key: BASE64_STANDARD.encode(&delivery.key),
            headers: headers.into_iter().map(|(name, value)| (name, BASE64_STANDARD.encode(value))).collect(),
            value: BASE64_STANDARD.encode(&delivery.value),
            severity: severity.as_str().to_owned(),
            fingerprint: fingerprint::of(group.as_str(), topic, errors),
            attempt_count: u32::try_from(attempts.len()).unwrap_or(u32::MAX),
            attempts,
            first_failed_at: now,
            last_failed_at: now,
            state: LetterState::Scheduled,
            cause: String::new(),
            by: String::new(),
            changed_at: now,
            // A redrive is the attempt after as many retries.
            retries: Self::redrive_attempt(delivery).map_or(0, |attempt| attempt.saturating_sub(1)),
            retry_at: None,
            pending: Some(Pending::Tell),
            keeps_order: false,
            waits_behind: None,
            redrive: None,
            edit: None,
        }
    }

    /// The id of the letter that `group` has or would have of this event.
    pub fn id_of(group: GroupName, event_id: &str) -> String {
        derived_id(&format!("{group}\n{event_id}"))
    }

    /// The id of the letter that `group` has or would have of this delivery.
    pub fn id_of_delivery(group: GroupName, delivery: &Delivery) -> String {
        // A redrive is the same letter again, also where the event was corrected.
        if let Some(id) = delivery.header(header::DEAD_LETTER) {
            return id.to_owned();
        }
        match delivery.event() {
            Ok(event) if !event.event_id.is_empty() => Self::id_of(group, &event.event_id),
            // A record without an event has only its place.
            _ => {
                let topic = Catalog::get().name(delivery.event_type);
                derived_id(&format!("{group}\n{topic}\n{}\n{}", delivery.partition, delivery.offset))
            }
        }
    }

    /// The letter with what a new failure of the same record adds. The record stays as it came first.
    #[must_use]
    pub fn failed_again(mut self, newer: Self) -> Self {
        self.attempt_count = self.attempt_count.saturating_add(newer.attempt_count);
        self.attempts.extend(newer.attempts);
        let surplus = self.attempts.len().saturating_sub(KEPT_ATTEMPTS);
        self.attempts.drain(..surplus);
        Self {
            severity: newer.severity,
            fingerprint: newer.fingerprint,
            last_failed_at: newer.last_failed_at,
            state: newer.state,
            by: String::new(),
            changed_at: newer.changed_at,
            retries: self.retries.max(newer.retries),
            retry_at: None,
            pending: newer.pending,
            waits_behind: None,
            redrive: state::outcome(self.redrive, RedriveOutcome::Failed),
            ..self
        }
    }

    /// The letter with what its policy does about its failure.
    #[must_use]
    pub fn decided(self, policy: &RetryPolicy) -> Self {
        let decision = policy.decide(&self.id, self.kind(), self.retries, self.last_failed_at);
        let (state, cause, retry_at) = match decision {
            Decision::Retry(at) => (LetterState::Scheduled, String::new(), Some(at)),
            Decision::Park(why) => (LetterState::Parked, why, None),
            Decision::Discard(why) => (LetterState::Discarded, why, None),
        };
        Self { state, cause, retry_at, keeps_order: policy.keep_order, ..self }
    }

    /// The letter in another state from `now` on.
    #[must_use]
    pub fn moved(self, state: LetterState, cause: impl Into<String>, now: SystemTime) -> Self {
        // What waits behind one that is over has to be seen to.
        let pending = Some(Pending::Release).filter(|_| state.is_over() && self.keeps_order);
        let redrive = match state {
            LetterState::Resolved => state::outcome(self.redrive, RedriveOutcome::Resolved),
            LetterState::Parked | LetterState::Discarded => state::outcome(self.redrive, RedriveOutcome::Failed),
            LetterState::Scheduled | LetterState::Retrying => self.redrive,
        };
        let (cause, by) = (cause.into(), String::new());
        Self { state, cause, by, changed_at: now, retry_at: None, pending, waits_behind: None, redrive, ..self }
    }

    /// The letter as it is about to be delivered again.
    #[must_use]
    pub fn sent(self, cause: impl Into<String>, redrive: Option<&str>, now: SystemTime) -> Self {
        let mark = redrive.map(|id| RedriveMark { id: id.to_owned(), outcome: RedriveOutcome::Sent });
        let retries = self.retries.saturating_add(1);
        let letter = Self { retries, redrive: mark.or(self.redrive.clone()), ..self };
        Self { pending: Some(Pending::Send), ..letter.moved(LetterState::Retrying, cause, now) }
    }

    /// Whether it is an event that could not be published, which no group has had yet.
    pub fn is_unpublished(&self) -> bool {
        self.group == crate::RELAY.as_str()
    }

    /// Whether trying again can help, as the last error says.
    pub fn kind(&self) -> Severity {
        Severity::parse(&self.severity)
    }

    /// The event type of the topic.
    pub fn event_type(&self) -> EventType {
        Catalog::get().event_type(&self.topic).unwrap_or_default()
    }

    /// The last error, without its causes.
    pub fn error(&self) -> &str {
        self.attempts.last().and_then(|attempt| attempt.errors.first()).map(String::as_str).unwrap_or_default()
    }

    /// The record's value as it came.
    pub fn original(&self) -> Bytes {
        decode(&self.value)
    }

    /// The record's key.
    pub fn record_key(&self) -> Bytes {
        decode(&self.key)
    }

    /// The record's headers.
    pub fn record_headers(&self) -> Vec<(String, Bytes)> {
        self.headers.iter().map(|(name, value)| (name.clone(), decode(value))).collect()
    }

    /// The record that delivers the letter to its group alone, as the retry number `retry`, from 1. What the relay could not
    /// publish is for all groups.
    pub fn redelivery(&self, retry: u32) -> Record {
        let mut headers = self.record_headers();
        headers.retain(|(name, _)| !header::OF_REDRIVES.contains(&name.as_str()));
        let attempt = retry.saturating_add(1).to_string();
        if !self.is_unpublished() {
            headers.push((header::REDRIVE_GROUP.to_owned(), Bytes::copy_from_slice(self.group.as_bytes())));
            headers.push((header::ATTEMPT.to_owned(), attempt.into()));
            headers.push((header::DEAD_LETTER.to_owned(), Bytes::copy_from_slice(self.id.as_bytes())));
        }
        Record {
            event_type: self.event_type(),
            key: self.record_key(),
            headers,
            value: self.edit.as_ref().map_or_else(|| self.original(), |edit| decode(&edit.value)),
            timestamp: self.record_time,
        }
    }

    /// Which attempt a redrive is, from 2. `None`: the record was not one.
    pub fn redrive_attempt(delivery: &Delivery) -> Option<u32> {
        delivery.header(header::ATTEMPT)?.parse().ok()
    }
}

fn decode(text: &str) -> Bytes {
    BASE64_STANDARD.decode(text).unwrap_or_default().into()
}

fn derived_id(identity: &str) -> String {
    Uuid::new_v5(&NAMESPACE, identity.as_bytes()).to_string()
}
