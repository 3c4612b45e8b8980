//! One group: its topics, with a mark that has the others pass over the records.

use std::collections::BTreeMap;

use runmesh_events::EventType;

use super::{Records, SendError, Targets, TopicsTarget};

/// The target that is a group, for events of these types.
///
/// # Errors
/// The mesh has no such group, or it does not take replayed events.
pub(super) async fn open(
    targets: &Targets,
    name: &str,
    records: Records,
    event_types: &[EventType],
) -> Result<TopicsTarget, SendError> {
    let group =
        targets.group(name).await?.ok_or_else(|| SendError::lasting(format!("there is no group {name:?} any more")))?;
    if !group.sees_replays {
        return Err(SendError::lasting(format!("group {name:?} does not take replayed events any more")));
    }
    let read = event_types.iter().copied().filter(|event_type| group.topics.contains(event_type)).collect();
    Ok(TopicsTarget::new(targets, records.for_group(name), BTreeMap::new(), read))
}
