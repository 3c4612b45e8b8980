//! The document of a result.

use std::sync::Arc;

use prost::Message as _;
use runmesh_proto::result::Result as ExecutionResult;
use runmesh_store::{Document, DocumentStore, Index, IndexValue, ReadModel, StoreError};

/// The collection beside that of [`StoredResult`], which is in use in turns with it.
const OTHER: &str = "results_2";

/// All results.
pub(crate) async fn open(documents: Arc<dyn DocumentStore>) -> Result<ReadModel<StoredResult>, StoreError> {
    ReadModel::open(documents, OTHER).await
}

/// What an execution produced.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredResult(pub(crate) ExecutionResult);

impl Document for StoredResult {
    const COLLECTION: &'static str = "results";
    const INDEXES: &'static [Index] = &[];

    fn id(&self) -> String {
        self.0.execution_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        ExecutionResult::decode(bytes).map(Self).map_err(|error| StoreError::Corrupt(format!("a result: {error}")))
    }
}
