//! Errors of the stores.

use runmesh_events::{AggregateId, EventId};

/// Why a store did not do what it was asked for. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The aggregate is not at the sequence that the append expected.
    #[error("aggregate {aggregate} is at sequence {actual}, not at {expected}")]
    Conflict {
        /// The aggregate.
        aggregate: AggregateId,
        /// The sequence that the append expected.
        expected: u64,
        /// The aggregate's newest sequence.
        actual: u64,
    },
    /// An event id is in use for another event.
    #[error("event id {0} is in use for another event")]
    EventIdInUse(EventId),
    /// The document is not at the revision that the write expected, or exists where none was expected.
    #[error("document {collection}/{id} is not at the expected revision")]
    RevisionMismatch {
        /// The document's collection.
        collection: &'static str,
        /// The document's id.
        id: String,
    },
    /// The aggregate was deleted.
    #[error("aggregate {0} was deleted")]
    Gone(AggregateId),
    /// An argument has no meaning to the store.
    #[error("{0}")]
    Invalid(String),
    /// What was read is not what was written.
    #[error("the store holds data that can't be read: {0}")]
    Corrupt(String),
    /// The backend failed; the same call may succeed later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The backend failed for good.
    #[error("the store failed: {0}")]
    Backend(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
