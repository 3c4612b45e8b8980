//! Errors of the bus.

use runmesh_store::StoreError;

/// Why the bus did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The topic is not an event type's.
    #[error("{0}")]
    UnknownTopic(#[from] runmesh_events::UnknownTopic),
    /// The record is larger than the topic takes.
    #[error("a record of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// The record's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The settings can't work.
    #[error("{0}")]
    Invalid(String),
    /// The bus can't be reached or did not answer; the same call may succeed later.
    #[error("the bus is not available: {0}")]
    Unavailable(String),
    /// The bus refused for good.
    #[error("the bus failed: {0}")]
    Backend(String),
    /// The store behind the embedded bus failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BusError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Store(error) => error.is_transient(),
            _ => false,
        }
    }
}
