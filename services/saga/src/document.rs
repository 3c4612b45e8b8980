//! The document of a saga.

use std::time::SystemTime;

use prost::Message as _;
use runmesh_events::from_timestamp;
use runmesh_proto::saga::{Saga, SagaState};
use runmesh_store::{Document, Index, IndexValue, StoreError};

use crate::view::SagaView;

/// A saga as it was when it began, or as it ended, without its steps; and the timer of its start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SagaDocument {
    pub(crate) saga: Saga,
    /// When it is to be looked at. It is not read back: whoever writes the document decides on it anew.
    pub(crate) look_at: Option<SystemTime>,
}

impl SagaDocument {
    /// The document of a saga as its log has it. Until it has ended it is kept as it began.
    pub(crate) fn of(view: &SagaView, look_at: Option<SystemTime>) -> Self {
        let mut saga = view.summary();
        if !view.ended() {
            saga.set_state(SagaState::Running);
        }
        Self { saga, look_at }
    }
}

pub(crate) const BY_CREATED: &str = "by_created";
pub(crate) const BY_STATE: &str = "by_state";

impl Document for SagaDocument {
    const COLLECTION: &'static str = "sagas";
    const INDEXES: &'static [Index] = &[
        Index { name: BY_CREATED, fields: &["created_at"] },
        Index { name: BY_STATE, fields: &["state", "created_at"] },
    ];

    fn id(&self) -> String {
        self.saga.saga_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        let created = self.saga.created_at.as_ref().and_then(from_timestamp);
        vec![
            ("state", i64::from(self.saga.state).into()),
            ("created_at", created.unwrap_or(SystemTime::UNIX_EPOCH).into()),
        ]
    }

    fn due(&self) -> Option<SystemTime> {
        self.look_at
    }

    fn encode(&self) -> Vec<u8> {
        self.saga.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let saga = Saga::decode(bytes).map_err(|error| StoreError::Corrupt(format!("a saga: {error}")))?;
        Ok(Self { saga, look_at: None })
    }
}
