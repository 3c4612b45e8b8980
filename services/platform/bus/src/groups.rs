//! The consumer groups of a mesh, for those who ask about all of them.

use async_trait::async_trait;
use runmesh_events::{EventType, GroupName};
use runmesh_store::StoreError;

/// A consumer group and what it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownGroup {
    /// The group.
    pub name: GroupName,
    /// The topics.
    pub topics: Vec<EventType>,
    /// Whether its handler does things outside of the mesh's store, such as running a script.
    pub outside_effects: bool,
    /// Whether its handler gets replayed events, as [`crate::ConsumerGroup::sees_replays`] says.
    pub sees_replays: bool,
}

impl KnownGroup {
    /// A group whose handler changes nothing but the mesh's store, and gets no replayed events.
    pub fn new(name: GroupName, topics: &[EventType]) -> Self {
        Self { name, topics: topics.to_vec(), outside_effects: false, sees_replays: false }
    }
}

/// Tells which groups there are.
#[async_trait]
pub trait GroupTable: Send + Sync {
    /// Every consumer group of the mesh as it is now, whichever process runs it.
    ///
    /// # Errors
    /// When that can't be read.
    async fn groups(&self) -> Result<Vec<KnownGroup>, StoreError>;
}

/// Groups that are always the same.
#[async_trait]
impl GroupTable for Vec<KnownGroup> {
    async fn groups(&self) -> Result<Vec<KnownGroup>, StoreError> {
        Ok(self.clone())
    }
}
