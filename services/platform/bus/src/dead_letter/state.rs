//! How far a letter is, and what it has been through.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

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

/// How far a dead letter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LetterState {
    /// It is delivered again by itself.
    Scheduled,
    /// It was delivered again; its group has not handled it yet.
    Retrying,
    /// It is left to a person. So is what was kept before letters had states.
    #[default]
    Parked,
    /// Its group has handled it.
    Resolved,
    /// It was given up.
    Discarded,
}

impl LetterState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Scheduled, Self::Retrying, Self::Parked, Self::Resolved, Self::Discarded];

    /// Those in which a letter is not over.
    pub const OPEN: [Self; 3] = [Self::Scheduled, Self::Retrying, Self::Parked];

    /// The name in indexes, metrics and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Retrying => "retrying",
            Self::Parked => "parked",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }

    /// Whether nothing becomes of the letter any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Resolved | Self::Discarded)
    }
}

/// A correction of a letter's event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The corrected event, in base64.
    pub value: String,
    /// Who corrected it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

/// What came of a letter in a redrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveMark {
    /// The redrive.
    pub id: String,
    /// How it went.
    pub outcome: RedriveOutcome,
}

/// How the delivery of a letter by a redrive went. Later deliveries do not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedriveOutcome {
    /// The group has not said yet.
    Sent,
    /// It was handled.
    Resolved,
    /// It failed again, or was given up before the group had it.
    Failed,
}

impl RedriveOutcome {
    /// The name in indexes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Resolved => "resolved",
            Self::Failed => "failed",
        }
    }
}

pub(super) fn outcome(mark: Option<RedriveMark>, outcome: RedriveOutcome) -> Option<RedriveMark> {
    mark.map(|mark| if mark.outcome == RedriveOutcome::Sent { RedriveMark { outcome, ..mark } } else { mark })
}

/// What has to be done about a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pending {
    /// Its failure has to be told.
    Tell,
    /// It is over: what waits behind it has to be delivered.
    Release,
    /// It is about to be delivered. Should that not come about, it has to be done again.
    Send,
}
