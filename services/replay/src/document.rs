//! What is kept of a replay: one document.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost::Message;
use runmesh_proto::replay::CreateReplayRequest;
use runmesh_store::{Document, Index, IndexValue, StoreError, from_json, to_json};
use serde::{Deserialize, Serialize};

use crate::session::Phase;

/// All, by when they were created.
pub(crate) const BY_CREATION: &str = "by_creation";

/// By whether they are over (`over`, `open`), and when they ended.
pub(crate) const BY_END: &str = "by_end";

/// What [`BY_CREATION`] begins with.
pub(crate) const ALL: &str = "replay";

/// What [`BY_END`] begins with of one that is over.
pub(crate) const OVER: &str = "over";

/// How many operations and errors are kept.
const KEPT: (usize, usize) = (50, 20);

/// The greatest number of characters of an error.
const ERROR: usize = 500;

/// A message of the contract as a text in a document: encoded, in base64.
pub(crate) fn to_text<M: Message>(message: &M) -> String {
    BASE64_STANDARD.encode(message.encode_to_vec())
}

/// The message back. `what` is what it is, for the error.
///
/// # Errors
/// [`StoreError::Corrupt`] when it can't be read.
pub(crate) fn from_text<M: Message + Default>(text: &str, what: &str) -> Result<M, StoreError> {
    let corrupt = |error: String| StoreError::Corrupt(format!("{what}: {error}"));
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| corrupt(error.to_string()))?;
    M::decode(bytes.as_slice()).map_err(|error| corrupt(error.to_string()))
}

/// How much was done up to the checkpoint. It is kept when the target has all of it durably.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The checkpoint: up to this place of the source all is done.
    pub(crate) place: u64,
    /// What the target has to know to go on from there, such as the length of a file.
    pub(crate) target: u64,
    pub(crate) scanned: u64,
    pub(crate) matched: u64,
    pub(crate) sent: u64,
    pub(crate) skipped: u64,
    pub(crate) failed: u64,
    pub(crate) retries: u64,
    /// The time of the event that was sent last.
    pub(crate) event_time: Option<SystemTime>,
    /// How long it ran.
    pub(crate) ran: Duration,
}

/// The places between which the source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Range {
    /// Before the first event. `None`: nothing was read yet.
    pub(crate) first: Option<u64>,
    /// Nothing behind this place is part of the replay.
    pub(crate) end: u64,
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) at: SystemTime,
}

/// An event that could not be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) event_id: String,
    pub(crate) place: u64,
    pub(crate) error: String,
    pub(crate) tries: u32,
    pub(crate) at: SystemTime,
}

/// A replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReplayDocument {
    pub(crate) id: String,
    pub(crate) phase: Phase,
    /// The request, encoded, in base64: what it is stays what was asked for.
    pub(crate) request: String,
    pub(crate) range: Range,
    pub(crate) progress: Progress,
    /// How often a process took it up.
    pub(crate) taken: u32,
    /// Events in a second lately.
    pub(crate) current_rate: f64,
    /// Whether it waits for live traffic.
    pub(crate) throttled: bool,
    pub(crate) live_lag: u64,
    pub(crate) created_at: SystemTime,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) updated_at: SystemTime,
    pub(crate) ended_at: Option<SystemTime>,
    pub(crate) note: String,
    pub(crate) operations: Vec<Operation>,
    pub(crate) failures: Vec<Failure>,
    /// Who carries it on. Another one takes over when it is due.
    pub(crate) carrier: String,
    /// Until when that one has it.
    pub(crate) due_at: Option<SystemTime>,
}

impl ReplayDocument {
    /// One that was asked for at `now`.
    pub(crate) fn new(id: String, request: &CreateReplayRequest, now: SystemTime) -> Self {
        let document = Self {
            id,
            phase: Phase::Created,
            request: to_text(request),
            range: Range::default(),
            progress: Progress::default(),
            taken: 0,
            current_rate: 0.0,
            throttled: false,
            live_lag: 0,
            created_at: now,
            started_at: None,
            updated_at: now,
            ended_at: None,
            note: String::new(),
            operations: Vec::new(),
            failures: Vec::new(),
            carrier: String::new(),
            due_at: None,
        };
        document.with_operation("CreateReplay", &request.actor, &request.reason, now)
    }

    /// The request that it was made by.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it can't be read.
    pub(crate) fn request(&self) -> Result<CreateReplayRequest, StoreError> {
        from_text(&self.request, &format!("the request of replay {}", self.id))
    }

    /// The same with what an operator did.
    #[must_use]
    pub(crate) fn with_operation(mut self, method: &str, actor: &str, reason: &str, at: SystemTime) -> Self {
        let (method, actor, reason) = (method.to_owned(), actor.to_owned(), reason.to_owned());
        self.operations.push(Operation { method, actor, reason, at });
        let surplus = self.operations.len().saturating_sub(KEPT.0);
        self.operations.drain(..surplus);
        self
    }

    /// Notes an event that could not be sent.
    pub(crate) fn add_failure(&mut self, failure: Failure) {
        let error = failure.error.chars().take(ERROR).collect();
        self.failures.push(Failure { error, ..failure });
        let surplus = self.failures.len().saturating_sub(KEPT.1);
        self.failures.drain(..surplus);
    }

    /// The name of the file that it writes, if its target is one.
    pub(crate) fn file_name(id: &str) -> String {
        format!("{id}.ndjson")
    }
}

impl Document for ReplayDocument {
    const COLLECTION: &'static str = "replays";
    const INDEXES: &'static [Index] = &[
        Index { name: BY_CREATION, fields: &["kind", "created_at"] },
        Index { name: BY_END, fields: &["over", "ended_at"] },
    ];

    fn id(&self) -> String {
        self.id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        let over = if self.phase.is_over() { OVER } else { "open" };
        vec![
            ("kind", ALL.into()),
            ("created_at", self.created_at.into()),
            ("over", over.into()),
            ("ended_at", self.ended_at.unwrap_or(self.updated_at).into()),
        ]
    }

    fn due(&self) -> Option<SystemTime> {
        self.due_at.filter(|_| self.phase == Phase::Running)
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a replay")
    }
}
