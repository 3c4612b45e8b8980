//! How dead letters are kept and found.

use std::time::{Duration, SystemTime};

use runmesh_store::{Document, Index, IndexValue, StoreError, from_json, to_json};

use super::{DeadLetter, LetterState, Pending, RedriveOutcome, fingerprint};

impl DeadLetter {
    /// By the time of the last failure.
    pub const BY_TIME: &'static str = "by_time";
    /// By group, and the time of the last failure.
    pub const BY_GROUP: &'static str = "by_group";
    /// By topic, and the time of the last failure.
    pub const BY_TOPIC: &'static str = "by_topic";
    /// By aggregate, and the time of the last failure.
    pub const BY_AGGREGATE: &'static str = "by_aggregate";
    /// By state, and the time of the last failure.
    pub const BY_STATE: &'static str = "by_state";
    /// By fingerprint, and the time of the last failure.
    pub const BY_FINGERPRINT: &'static str = "by_fingerprint";
    /// By the time of the last change.
    pub const BY_CHANGE: &'static str = "by_change";
    /// By [`DeadLetter::tally`], and the time of the last failure. Counted.
    pub const BY_TALLY: &'static str = "by_tally";
    /// By [`DeadLetter::cause_tally`], and the time of the first failure. Counted.
    pub const BY_CAUSE: &'static str = "by_cause";
    /// Fingerprint, a tab, and the hour of the first failure since 1970. Counted only.
    pub const HOURS: &'static str = "hours";
    /// By whether it is over ([`DeadLetter::OPEN`] or not), and the time of the last failure.
    pub const BY_OPEN: &'static str = "by_open";
    /// [`DeadLetter::redrive_tally`]. Counted only.
    pub const REDRIVES: &'static str = "redrives";
    /// By [`DeadLetter::order_key`], and sequence.
    pub const BY_ORDER: &'static str = "by_order";

    /// What stands for letters that are not over in [`DeadLetter::BY_OPEN`].
    pub const OPEN: &'static str = "open";

    /// Topic, state, the number of retries and group, with tabs between them.
    pub fn tally(&self) -> String {
        format!("{}\t{}\t{}\t{}", self.topic, self.state.as_str(), self.retries, self.group)
    }

    /// Fingerprint and state, with a tab between them.
    pub fn cause_tally(fingerprint: &str, state: LetterState) -> String {
        format!("{fingerprint}\t{}", state.as_str())
    }

    /// Redrive and outcome, with a tab between them.
    pub fn redrive_tally(redrive_id: &str, outcome: RedriveOutcome) -> String {
        format!("{redrive_id}\t{}", outcome.as_str())
    }

    /// What the open letters of an aggregate in a group have in common, where order is kept.
    pub fn order_key(group: &str, aggregate_id: &str) -> String {
        format!("{group}\t{aggregate_id}")
    }

    /// The hour of a time, since 1970.
    pub fn hour(time: SystemTime) -> u64 {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 3_600
    }
}

impl Document for DeadLetter {
    const COLLECTION: &'static str = "dead_letters";
    // Each that has a place in an index has a time, so that new letters come next to each other: without one a write is all
    // over the file.
    const INDEXES: &'static [Index] = &[
        Index { name: Self::BY_TIME, fields: &["last_failed_at"] },
        Index { name: Self::BY_GROUP, fields: &["group", "last_failed_at"] },
        Index { name: Self::BY_TOPIC, fields: &["topic", "last_failed_at"] },
        Index { name: Self::BY_AGGREGATE, fields: &["aggregate_id", "last_failed_at"] },
        Index { name: Self::BY_OPEN, fields: &["open", "last_failed_at"] },
        Index { name: Self::BY_STATE, fields: &["state", "last_failed_at"] },
        Index { name: Self::BY_FINGERPRINT, fields: &["fingerprint", "last_failed_at"] },
        Index { name: Self::BY_CHANGE, fields: &["changed_at"] },
        Index { name: Self::BY_TALLY, fields: &["tally", "last_failed_at"] },
        Index { name: Self::BY_CAUSE, fields: &["cause", "first_failed_at"] },
        Index { name: Self::HOURS, fields: &["hour"] },
        Index { name: Self::REDRIVES, fields: &["redrive"] },
        Index { name: Self::BY_ORDER, fields: &["order_key", "sequence", "first_failed_at"] },
    ];
    const COUNTED: &'static [&'static str] = &[Self::BY_TALLY, Self::BY_CAUSE, Self::HOURS, Self::REDRIVES];

    fn id(&self) -> String {
        self.id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        let hour = format!("{}\t{}", self.fingerprint, Self::hour(self.first_failed_at));
        let redrive = self.redrive.as_ref().map(|mark| Self::redrive_tally(&mark.id, mark.outcome)).unwrap_or_default();
        let ordered = self.keeps_order && !self.state.is_over();
        let order_key = if ordered { Self::order_key(&self.group, &self.aggregate_id) } else { String::new() };
        vec![
            ("last_failed_at", self.last_failed_at.into()),
            ("first_failed_at", self.first_failed_at.into()),
            ("changed_at", self.changed_at.into()),
            ("group", self.group.as_str().into()),
            ("topic", self.topic.as_str().into()),
            ("aggregate_id", self.aggregate_id.as_str().into()),
            ("open", if self.state.is_over() { "over" } else { Self::OPEN }.into()),
            ("state", self.state.as_str().into()),
            ("fingerprint", self.fingerprint.as_str().into()),
            ("tally", self.tally().as_str().into()),
            ("cause", Self::cause_tally(&self.fingerprint, self.state).as_str().into()),
            ("hour", hour.as_str().into()),
            ("redrive", redrive.as_str().into()),
            ("order_key", order_key.as_str().into()),
            ("sequence", i64::try_from(self.sequence).unwrap_or(i64::MAX).into()),
        ]
    }

    fn due(&self) -> Option<SystemTime> {
        match self.pending {
            // At once.
            Some(Pending::Tell | Pending::Release) => Some(self.changed_at),
            Some(Pending::Send) => Some(self.changed_at + SENT_WITHIN),
            // The record is on its way. Should it be lost all the same, it is delivered again.
            None if self.state == LetterState::Retrying => Some(self.changed_at + LOST_AFTER),
            None => self.retry_at,
        }
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut letter: Self = from_json(bytes, "a dead letter")?;
        if letter.fingerprint.is_empty() {
            // It was kept before letters had fingerprints.
            let errors = letter.attempts.last().map(|attempt| attempt.errors.as_slice()).unwrap_or_default();
            letter.fingerprint = fingerprint::of(&letter.group, &letter.topic, errors);
            letter.changed_at = letter.last_failed_at;
        }
        Ok(letter)
    }
}

/// How long the publishing of a redrive may take. One that its group has answered by then is not published again.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// After what time a redrive whose group has said nothing is delivered again.
const LOST_AFTER: Duration = Duration::from_secs(60 * 60);
