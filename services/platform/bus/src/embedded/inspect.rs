//! What the table holds and what groups have committed, seen from beside.

use std::time::SystemTime;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_events::{EventType, GroupName};
use runmesh_store::{Position, SqliteStore};

use super::{READ, delivery, topic_of};
use crate::{BusError, Extent, Lane, Records};

/// A topic's one lane.
fn lane_of(event_type: EventType) -> Result<Lane, BusError> {
    topic_of(event_type)?;
    Ok(Lane { event_type, partition: 0 })
}

/// All lanes share the table's positions, and no record expires. The end is that of all records so far: one at the end
/// that was deleted must not make a group seem to be ahead.
pub(super) async fn extents(store: &SqliteStore, topics: &[EventType]) -> Result<Vec<Extent>, BusError> {
    let next = store.greatest_position().await?.0 + 1;
    topics.iter().map(|event_type| Ok(Extent { lane: lane_of(*event_type)?, first: 1, next })).collect()
}

pub(super) async fn offsets_at(
    store: &SqliteStore,
    topics: &[EventType],
    time: SystemTime,
) -> Result<Vec<(Lane, u64)>, BusError> {
    let mut offsets = Vec::new();
    for event_type in topics {
        let lane = lane_of(*event_type)?;
        offsets.extend(store.position_at(*event_type, time).await?.map(|position| (lane, position.0)));
    }
    Ok(offsets)
}

pub(super) async fn committed(
    store: &SqliteStore,
    group: GroupName,
    topics: &[EventType],
) -> Result<Vec<(Lane, u64)>, BusError> {
    let mut offsets = Vec::new();
    for event_type in topics {
        let lane = lane_of(*event_type)?;
        let finished = store.group_offset(group.as_str(), *event_type).await?;
        if finished > Position(0) {
            offsets.push((lane, finished.0 + 1));
        }
    }
    Ok(offsets)
}

pub(super) fn read(store: SqliteStore, lane: Lane, from: u64, until: u64) -> Records {
    let Some(last) = until.checked_sub(1) else { return stream::empty().boxed() };
    let start = Position(from.saturating_sub(1));
    stream::try_unfold(start, move |after| {
        let store = store.clone();
        async move {
            if after.0 >= last {
                return Ok::<_, BusError>(None);
            }
            let found = store.records_of_file(lane.event_type, after, READ).await?;
            if found.records.is_empty() {
                return Ok(None);
            }
            let records: Vec<_> =
                found.records.into_iter().filter(|record| record.position.0 <= last).map(delivery).collect();
            Ok(Some((stream::iter(records.into_iter().map(Ok)), found.upto)))
        }
    })
    .try_flatten()
    .boxed()
}
