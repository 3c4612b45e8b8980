//! The document of a claim on a slot.

use std::time::SystemTime;

use runmesh_store::{Document, Index, IndexValue, StoreError};
use serde::{Deserialize, Serialize};

/// An execution's claim on a slot, from the allocate command to the release command. Whether it was granted is in the
/// execution's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) execution_id: String,
    pub(crate) priority: i32,
    pub(crate) since: SystemTime,
}

pub(crate) const BY_TIME: &str = "by_time";

impl Document for Claim {
    const COLLECTION: &'static str = "slot_claims";
    const INDEXES: &'static [Index] = &[Index { name: BY_TIME, fields: &["since"] }];

    fn id(&self) -> String {
        self.execution_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("since", self.since.into())]
    }

    fn encode(&self) -> Vec<u8> {
        // Strings, numbers and times always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("a claim on a slot: {error}")))
    }
}
