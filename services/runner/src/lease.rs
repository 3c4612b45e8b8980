//! The document of a run: who runs it, and until when that is believed.

use std::time::SystemTime;

use runmesh_store::{Document, Index, IndexValue, StoreError};
use serde::{Deserialize, Serialize};

/// A run that a node has taken on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunLease {
    pub(crate) execution_id: String,
    pub(crate) attempt: u32,
    pub(crate) node: String,
    pub(crate) until: SystemTime,
}

pub(crate) const BY_NODE: &str = "by_node";

impl Document for RunLease {
    const COLLECTION: &'static str = "runs";
    const INDEXES: &'static [Index] = &[Index { name: BY_NODE, fields: &["node"] }];

    fn id(&self) -> String {
        self.execution_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("node", self.node.as_str().into())]
    }

    fn due(&self) -> Option<SystemTime> {
        Some(self.until)
    }

    fn encode(&self) -> Vec<u8> {
        // Strings, numbers and times always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("the lease of a run: {error}")))
    }
}
