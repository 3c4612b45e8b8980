//! One moment: how far the groups had come, and what the topics held then. All that is counted is counted up to it.

use std::collections::HashMap;

use futures::future::try_join_all;
use runmesh_bus::{Extent, Lane};
use runmesh_events::{Catalog, EventType, GroupName};

use crate::{VerifyError, verifier::Task};

/// The state of the bus when a verification began.
pub(crate) struct Cut {
    extents: Vec<Extent>,
    /// Where records of the time that is looked at begin. `None`: everywhere.
    since: Option<HashMap<Lane, u64>>,
    committed: HashMap<(GroupName, Lane), u64>,
}

impl Cut {
    /// Asks the bus. The groups come first: so none of them can seem to be ahead of a topic, only behind.
    pub(crate) async fn take(task: &Task<'_>) -> Result<Self, VerifyError> {
        let of_group = task.groups.iter().map(async |group| {
            let offsets = task.bus.committed(group.name, &group.topics).await?;
            Ok::<_, VerifyError>(offsets.into_iter().map(|(lane, next)| ((group.name, lane), next)))
        });
        let committed = try_join_all(of_group).await?.into_iter().flatten().collect();
        let topics: Vec<EventType> = Catalog::get().event_types().collect();
        let extents = task.bus.extents(&topics).await?;
        let since = match task.since {
            Some(since) => Some(task.bus.offsets_at(&topics, since).await?.into_iter().collect()),
            None => None,
        };
        Ok(Self { extents, since, committed })
    }

    /// The lanes of a topic.
    pub(crate) fn lanes(&self, event_type: EventType) -> impl Iterator<Item = &Extent> {
        self.extents.iter().filter(move |extent| extent.lane.event_type == event_type)
    }

    /// The end of a lane. 0: it did not exist.
    pub(crate) fn end(&self, lane: Lane) -> u64 {
        self.extents.iter().find(|extent| extent.lane == lane).map_or(0, |extent| extent.next)
    }

    /// Whether a topic may hold records.
    pub(crate) fn has_records(&self, event_type: EventType) -> bool {
        self.lanes(event_type).any(|extent| extent.first < extent.next)
    }

    /// The offset at which records of the time that is looked at begin in a lane.
    pub(crate) fn start(&self, extent: &Extent) -> u64 {
        match &self.since {
            None => extent.first,
            Some(since) => since.get(&extent.lane).map_or(extent.next, |offset| (*offset).max(extent.first)),
        }
    }

    /// Where a group went on. `None`: it had not committed anything.
    pub(crate) fn committed(&self, group: GroupName, lane: Lane) -> Option<u64> {
        self.committed.get(&(group, lane)).copied()
    }
}
