//! The consumer groups of the whole mesh, whatever roles this process has.

use std::sync::Arc;

use async_trait::async_trait;
use runmesh_bus::{GroupTable, KnownGroup};
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
    async fn groups(&self) -> Result<Vec<KnownGroup>, StoreError> {
        let mut groups = vec![
            KnownGroup {
                sees_replays: runmesh_execution::SEES_REPLAYS,
                ..KnownGroup::new(runmesh_execution::GROUP, &runmesh_execution::TOPICS)
            },
            KnownGroup::new(runmesh_scheduler::GROUP, &runmesh_scheduler::TOPICS),
            KnownGroup::new(runmesh_saga::GROUP, &runmesh_saga::TOPICS),
            KnownGroup {
                sees_replays: runmesh_results::SEES_REPLAYS,
                ..KnownGroup::new(runmesh_results::GROUP, &runmesh_results::TOPICS)
            },
        ];
        // A runner that is gone owes nothing: what it had not begun with goes to another.
        for runner in self.runners.alive().await? {
            let group = KnownGroup::new(runmesh_runner::group_of(&runner.name), &runmesh_runner::TOPICS);
            groups.push(KnownGroup { outside_effects: true, ..group });
        }
        Ok(groups)
    }
}
