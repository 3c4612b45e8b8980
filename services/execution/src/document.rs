//! The document that lists are made from.

use std::sync::Arc;

use prost::Message as _;
use runmesh_events::from_timestamp;
use runmesh_proto::execution::Execution;
use runmesh_store::{Document, DocumentStore, Index, IndexValue, ReadModel, StoreError};

/// The collection beside that of [`Summary`], which is in use in turns with it.
const OTHER: &str = "executions_2";

/// The summaries of all executions.
pub(crate) async fn open(documents: Arc<dyn DocumentStore>) -> Result<ReadModel<Summary>, StoreError> {
    ReadModel::open(documents, OTHER).await
}

/// A summary of an execution: without script, files and standard input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary(pub(crate) Execution);

pub(crate) const BY_CREATED: &str = "by_created";
pub(crate) const BY_STATE: &str = "by_state";

impl Document for Summary {
    const COLLECTION: &'static str = "executions";
    const INDEXES: &'static [Index] = &[
        Index { name: BY_CREATED, fields: &["created_at"] },
        Index { name: BY_STATE, fields: &["state", "created_at"] },
    ];

    fn id(&self) -> String {
        self.0.execution_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        let created = self.0.created_at.as_ref().and_then(from_timestamp);
        vec![
            ("state", i64::from(self.0.state).into()),
            ("created_at", created.unwrap_or(std::time::SystemTime::UNIX_EPOCH).into()),
        ]
    }

    fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        Execution::decode(bytes).map(Self).map_err(|error| StoreError::Corrupt(format!("an execution: {error}")))
    }
}
