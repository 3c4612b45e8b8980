//! What is kept of a redrive: from the plan to the end one document, and the ids of its letters in parts.

use std::time::SystemTime;

use runmesh_events::{Catalog, EventType};
use runmesh_proto::dlq::RedriveState;
use runmesh_store::{Document, Index, IndexValue, StoreError, from_json, to_json};
use serde::{Deserialize, Serialize};

/// By whether it was started (`started`, `planned`), and when.
pub(crate) const BY_START: &str = "by_start";

/// How far a redrive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// It was not started.
    Planned,
    /// It delivers the first ones.
    Canary,
    /// It delivers.
    Running,
    /// An operator has paused it.
    Paused,
    /// All were delivered.
    Completed,
    /// Too many of the first ones failed.
    Stopped,
    /// An operator has ended it.
    Cancelled,
}

impl Phase {
    /// Whether it delivers.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Canary | Self::Running)
    }

    pub(crate) fn view(self) -> RedriveState {
        match self {
            Self::Planned => RedriveState::Unspecified,
            Self::Canary => RedriveState::Canary,
            Self::Running => RedriveState::Running,
            Self::Paused => RedriveState::Paused,
            Self::Completed => RedriveState::Completed,
            Self::Stopped => RedriveState::Stopped,
            Self::Cancelled => RedriveState::Cancelled,
        }
    }
}

/// How far the letters were gone through. It is kept some times a second; what a crash makes it do again, it notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The part that the next letter is in.
    pub(crate) part: u32,
    /// Its place in the part.
    pub(crate) place: usize,
    /// How many were delivered.
    pub(crate) delivered: u64,
    /// How many were left alone.
    pub(crate) skipped: u64,
}

/// The letters of a group that a redrive reaches, by topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) count: u64,
}

impl Target {
    /// Whether it is that of a group on a topic.
    pub(crate) fn is(&self, group: &str, event_type: EventType) -> bool {
        self.group == group && Catalog::get().topic(event_type).is_some_and(|topic| topic.name == self.topic)
    }
}

/// A redrive, or the plan of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RedriveDocument {
    /// The id, which is the plan's token too.
    pub(crate) id: String,
    pub(crate) phase: Phase,
    /// Until when it can be started.
    pub(crate) expires_at: SystemTime,
    /// How many letters.
    pub(crate) planned: u64,
    /// In how many parts.
    pub(crate) parts: u32,
    pub(crate) targets: Vec<Target>,
    pub(crate) progress: Progress,
    /// Letters in a second at most. 0: no limit.
    pub(crate) rate: f64,
    /// How many are delivered first.
    pub(crate) canary: u64,
    /// How many of those may fail.
    pub(crate) canary_failures: u64,
    /// Whether it waits for live traffic.
    pub(crate) throttled: bool,
    pub(crate) live_lag: u64,
    /// Letters in a second lately.
    pub(crate) current_rate: f64,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) updated_at: SystemTime,
    pub(crate) ended_at: Option<SystemTime>,
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) note: String,
    /// Who carries it on. Another one takes over when it is due.
    pub(crate) carrier: String,
    /// Until when that one has it.
    pub(crate) due_at: Option<SystemTime>,
}

impl Document for RedriveDocument {
    const COLLECTION: &'static str = "redrives";
    const INDEXES: &'static [Index] = &[Index { name: BY_START, fields: &["kind", "started_at"] }];

    fn id(&self) -> String {
        self.id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        let kind = if self.started_at.is_some() { "started" } else { "planned" };
        let at = self.started_at.unwrap_or(self.expires_at);
        vec![("kind", kind.into()), ("started_at", at.into())]
    }

    fn due(&self) -> Option<SystemTime> {
        match self.phase {
            // Then it is removed.
            Phase::Planned => Some(self.expires_at),
            Phase::Canary | Phase::Running => self.due_at,
            Phase::Paused | Phase::Completed | Phase::Stopped | Phase::Cancelled => None,
        }
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a redrive")
    }
}

/// Some of the letters of a redrive, by their ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartDocument {
    pub(crate) redrive_id: String,
    pub(crate) number: u32,
    pub(crate) ids: Vec<String>,
}

impl PartDocument {
    pub(crate) fn id_of(redrive_id: &str, number: u32) -> String {
        format!("{redrive_id}/{number}")
    }
}

impl Document for PartDocument {
    const COLLECTION: &'static str = "redrive_parts";
    const INDEXES: &'static [Index] = &[];

    fn id(&self) -> String {
        Self::id_of(&self.redrive_id, self.number)
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a part of a redrive")
    }
}
