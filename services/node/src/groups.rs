//! The consumer groups of the whole mesh, whatever roles this process has.

use runmesh_dlq::KnownGroup;
use runmesh_event_log::GroupTopics;

/// Every group and what it reads, as the crates whose handlers they run declare them.
pub(crate) fn all() -> Vec<GroupTopics> {
    vec![
        GroupTopics { name: runmesh_execution::GROUP, topics: runmesh_execution::TOPICS.to_vec() },
        GroupTopics { name: runmesh_scheduler::GROUP, topics: runmesh_scheduler::TOPICS.to_vec() },
        GroupTopics { name: runmesh_saga::GROUP, topics: runmesh_saga::TOPICS.to_vec() },
        GroupTopics { name: runmesh_runner::GROUP, topics: runmesh_runner::TOPICS.to_vec() },
        GroupTopics { name: runmesh_results::GROUP, topics: runmesh_results::TOPICS.to_vec() },
    ]
}

/// The same, with what the dead letters' service has to know of them.
pub(crate) fn known() -> Vec<KnownGroup> {
    all()
        .into_iter()
        .map(|GroupTopics { name, topics }| KnownGroup { outside_effects: name == runmesh_runner::GROUP, name, topics })
        .collect()
}
