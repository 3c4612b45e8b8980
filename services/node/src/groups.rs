//! The consumer groups of the whole mesh, whatever roles this process has.

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_dlq::{KnownGroup, KnownGroups};
use runmesh_event_log::{GroupTable, GroupTopics};
use runmesh_store::{DocumentStore, Members, StoreError};

/// Every group and what it reads, as the crates whose handlers they run declare them.
pub(crate) struct Groups {
    runners: Members,
}

impl Groups {
    /// The groups of the mesh with these documents.
    ///
    /// # Errors
    /// When the collection of runners can't be made.
    pub(crate) async fn open(documents: Arc<dyn DocumentStore>) -> Result<Self, StoreError> {
        Ok(Self { runners: Members::open(documents, runmesh_scheduler::RUNNERS).await? })
    }
}

#[async_trait]
impl GroupTable for Groups {
    async fn groups(&self) -> Result<Vec<GroupTopics>, StoreError> {
        let mut groups = vec![
            GroupTopics { name: runmesh_execution::GROUP, topics: runmesh_execution::TOPICS.to_vec() },
            GroupTopics { name: runmesh_scheduler::GROUP, topics: runmesh_scheduler::TOPICS.to_vec() },
            GroupTopics { name: runmesh_saga::GROUP, topics: runmesh_saga::TOPICS.to_vec() },
            GroupTopics { name: runmesh_results::GROUP, topics: runmesh_results::TOPICS.to_vec() },
        ];
        // A runner that is gone owes nothing: what it had not begun with goes to another.
        for runner in self.runners.alive().await? {
            let name = runmesh_runner::group_of(&runner.name);
            groups.push(GroupTopics { name, topics: runmesh_runner::TOPICS.to_vec() });
        }
        Ok(groups)
    }
}

#[async_trait]
impl KnownGroups for Groups {
    async fn groups(&self) -> Result<Vec<KnownGroup>, StoreError> {
        let groups = GroupTable::groups(self).await?;
        let known = |GroupTopics { name, topics }: GroupTopics| {
            // Runners read no other group's topics, and do all that is done outside.
            KnownGroup { outside_effects: topics == runmesh_runner::TOPICS, name, topics }
        };
        Ok(groups.into_iter().map(known).collect())
    }
}
