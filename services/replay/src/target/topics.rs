//! The topics of the event types.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use runmesh_bus::{Bus, BusError, GroupTable, Record};
use runmesh_events::{Event, EventType};
use runmesh_store::StoreError;

use super::{Records, SendError, Target, Targets};

/// Publishes events again.
pub(super) struct TopicsTarget {
    bus: Arc<dyn Bus>,
    groups: Arc<dyn GroupTable>,
    records: Records,
    /// Topics in the stead of those of event types.
    map: BTreeMap<EventType, String>,
    /// The types that there may be.
    event_types: Vec<EventType>,
}

impl TopicsTarget {
    pub(super) fn new(
        targets: &Targets,
        records: Records,
        map: BTreeMap<EventType, String>,
        event_types: Vec<EventType>,
    ) -> Self {
        let (bus, groups) = (Arc::clone(&targets.bus), Arc::clone(&targets.groups));
        Self { bus, groups, records, map, event_types }
    }
}

#[async_trait]
impl Target for TopicsTarget {
    fn wants(&self, event_type: EventType) -> bool {
        self.event_types.contains(&event_type)
    }

    async fn send(&mut self, events: &[Arc<Event>]) -> Vec<Result<(), SendError>> {
        let made: Vec<Result<Record, SendError>> = events.iter().map(|event| self.records.of(event)).collect();
        let records = made.iter().filter_map(|made| made.as_ref().ok().cloned()).collect();
        let mut published = self.bus.publish_mapped(records, &self.map).await.into_iter();
        let missing = || Err(BusError::Unavailable("the fate is unknown".to_owned()));
        made.into_iter()
            .map(|made| match made {
                Err(error) => Err(error),
                Ok(_) => published
                    .next()
                    .unwrap_or_else(missing)
                    .map(drop)
                    .map_err(|error| SendError { transient: error.is_transient(), words: error.to_string() }),
            })
            .collect()
    }

    async fn behind(&self) -> Result<u64, StoreError> {
        let mut behind = 0;
        for group in self.groups.groups().await? {
            let reads = |topic: &EventType| self.event_types.contains(topic) && !self.map.contains_key(topic);
            let topics: Vec<EventType> = group.topics.iter().copied().filter(reads).collect();
            if topics.is_empty() {
                continue;
            }
            match self.bus.lag(group.name, &topics).await {
                Ok(lag) => behind += lag.iter().map(|lag| lag.records).sum::<u64>(),
                Err(error) => tracing::debug!(%error, "the lag is not known"),
            }
        }
        Ok(behind)
    }
}
