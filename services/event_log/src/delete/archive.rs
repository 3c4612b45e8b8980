//! What was deleted, as it was.

use std::time::SystemTime;

use runmesh_events::json;
use runmesh_store::{Document, Index, IndexValue, StoreError, Stored, from_json, to_json};
use serde::{Deserialize, Serialize};

/// An event that was deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ArchivedEvent {
    /// Its id.
    pub(crate) event_id: String,
    /// Its place in the store.
    pub(crate) position: u64,
    /// Its log.
    pub(crate) aggregate_id: String,
    /// All of it, as the JSON of the contract.
    pub(crate) event_json: String,
    /// Who deleted it.
    pub(crate) actor: String,
    /// Why.
    pub(crate) reason: String,
    /// When.
    pub(crate) deleted_at: SystemTime,
}

impl ArchivedEvent {
    pub(crate) fn new(stored: &Stored, actor: &str, reason: &str, now: SystemTime) -> Self {
        Self {
            event_id: stored.event.event_id.clone(),
            position: stored.position.0,
            aggregate_id: stored.event.aggregate_id.clone(),
            event_json: json::of(json::EVENT, &*stored.event),
            actor: actor.to_owned(),
            reason: reason.to_owned(),
            deleted_at: now,
        }
    }
}

impl Document for ArchivedEvent {
    const COLLECTION: &'static str = "archived_events";
    const INDEXES: &'static [Index] = &[
        Index { name: "by_time", fields: &["deleted_at"] },
        Index { name: "by_log", fields: &["aggregate_id", "deleted_at"] },
    ];

    fn id(&self) -> String {
        self.event_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("aggregate_id", self.aggregate_id.as_str().into()), ("deleted_at", self.deleted_at.into())]
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "an archived event")
    }
}
