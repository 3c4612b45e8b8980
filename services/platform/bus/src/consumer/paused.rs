//! Which groups are paused, for everybody to see.

use std::{sync::Arc, time::SystemTime};

use runmesh_events::GroupName;
use runmesh_store::{Document, DocumentStore, Documents, Index, IndexValue, PageQuery, StoreError, from_json, to_json};
use serde::{Deserialize, Serialize};

use super::guard::Pause;

const BY_GROUP: &str = "by_group";

/// A group that takes on nothing in one process, because all that it handles fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedGroup {
    /// The group.
    pub group: String,
    /// The process.
    pub node: String,
    /// Since when.
    pub since: SystemTime,
    /// The last error.
    pub error: String,
    /// How often it was tried since.
    pub probes: u32,
}

impl Document for PausedGroup {
    const COLLECTION: &'static str = "paused_groups";
    const INDEXES: &'static [Index] = &[Index { name: BY_GROUP, fields: &["group"] }];

    fn id(&self) -> String {
        id(&self.group, &self.node)
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("group", self.group.as_str().into())]
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "a paused group")
    }
}

fn id(group: &str, node: &str) -> String {
    format!("{group}/{node}")
}

/// The groups that are paused. Clones share everything.
#[derive(Debug, Clone)]
pub struct PausedGroups {
    documents: Documents<PausedGroup>,
    node: Arc<str>,
}

impl PausedGroups {
    /// The groups that are paused, over all processes of a store.
    ///
    /// # Errors
    /// When their collection can't be made.
    pub async fn open(documents: Arc<dyn DocumentStore>) -> Result<Self, StoreError> {
        Ok(Self { documents: Documents::open(documents).await?, node: "".into() })
    }

    pub(super) fn of_node(self, node: &str) -> Self {
        Self { node: node.into(), ..self }
    }

    /// All of them, by group; at most 1,000.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<Vec<PausedGroup>, StoreError> {
        let page = self.documents.page(PageQuery { index: BY_GROUP, limit: 1_000, ..PageQuery::default() }).await?;
        Ok(page.documents.into_iter().map(|found| found.document).collect())
    }

    /// Tells that a group of this process is paused, or is not. It is for people to see, so a failure is only logged: the
    /// store may be what is out of order.
    pub(super) async fn tell(&self, group: GroupName, pause: Option<&Pause>) {
        let told = match pause {
            Some(Pause { since, error, probes }) => {
                let paused = PausedGroup {
                    group: group.to_string(),
                    node: self.node.to_string(),
                    since: *since,
                    error: error.clone(),
                    probes: *probes,
                };
                self.documents.change(&paused.id(), |_| Some(paused.clone())).await.map(drop)
            }
            None => self.documents.delete(&id(group.as_str(), &self.node)).await.map(drop),
        };
        if let Err(error) = told {
            tracing::warn!(%group, %error, "can't tell whether the group is paused");
        }
    }
}
