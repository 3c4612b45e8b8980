//! What is kept of a comparison: one document.

use runmesh_proto::replay::ShadowComparison;
use runmesh_store::{Document, Index, IndexValue, StoreError, from_json, to_json};
use serde::{Deserialize, Serialize};

use crate::document::{from_text, to_text};

/// By replay.
pub(super) const BY_REPLAY: &str = "by_replay";

/// By replay, and whether there are differences: see [`ComparisonDocument::found`].
pub(super) const BY_FOUND: &str = "by_found";

/// A comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ComparisonDocument {
    id: String,
    replay_id: String,
    is_different: bool,
    /// The comparison, encoded, in base64.
    comparison: String,
}

impl ComparisonDocument {
    pub(crate) fn new(replay_id: &str, execution_id: &str, comparison: &ShadowComparison) -> Self {
        Self {
            id: Self::id_of(replay_id, execution_id),
            replay_id: replay_id.to_owned(),
            is_different: !comparison.differences.is_empty(),
            comparison: to_text(comparison),
        }
    }

    /// The id of the comparison of an execution with what a replay made of it.
    pub(crate) fn id_of(replay_id: &str, execution_id: &str) -> String {
        format!("{replay_id}/{execution_id}")
    }

    /// What stands for the comparisons of a replay that have differences, or have none.
    pub(super) fn found(replay_id: &str, is_different: bool) -> String {
        format!("{replay_id}\t{}", if is_different { "different" } else { "same" })
    }

    /// The comparison.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it can't be read.
    pub(super) fn comparison(&self) -> Result<ShadowComparison, StoreError> {
        from_text(&self.comparison, &format!("the comparison {}", self.id))
    }
}

impl Document for ComparisonDocument {
    const COLLECTION: &'static str = "replay_comparisons";
    const INDEXES: &'static [Index] =
        &[Index { name: BY_REPLAY, fields: &["replay"] }, Index { name: BY_FOUND, fields: &["found"] }];

    fn id(&self) -> String {
        self.id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        let found = Self::found(&self.replay_id, self.is_different);
        vec![("replay", self.replay_id.as_str().into()), ("found", found.as_str().into())]
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a comparison of runs")
    }
}
