//! How far a group is behind.

use std::collections::HashMap;

use runmesh_events::{EventType, GroupName};

use super::{KafkaConfig, inspect};
use crate::{BusError, GroupLag, Lane};

/// The group's lag on each topic: the records between what it committed and the end of each partition.
pub(super) fn of(config: &KafkaConfig, group: GroupName, topics: &[EventType]) -> Result<Vec<GroupLag>, BusError> {
    // Before the ends: the lag may be told a little too large, but never too small.
    let committed: HashMap<Lane, u64> = inspect::committed(config, group, topics)?.into_iter().collect();
    let extents = inspect::extents(config, topics)?;
    let behind = |event_type: EventType| {
        let lanes = extents.iter().filter(|extent| extent.lane.event_type == event_type);
        lanes
            .map(|extent| {
                let next = committed.get(&extent.lane).copied().unwrap_or_default().max(extent.first);
                extent.next.saturating_sub(next)
            })
            .sum()
    };
    Ok(topics.iter().map(|event_type| GroupLag { event_type: *event_type, records: behind(*event_type) }).collect())
}
