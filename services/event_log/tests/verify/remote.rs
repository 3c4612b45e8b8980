//! The embedded bus over another file than the store's, so that it is a bus by itself, as Kafka is: events have to be
//! published on it.

use std::time::SystemTime;

use async_trait::async_trait;
use runmesh_bus::{
    Bus, BusError, EmbeddedBus, Extent, GroupLag, Lane, Placement, Record, Records, Subscription, TopicReport,
};
use runmesh_events::{EventType, GroupName, TopicSpec};

/// The largest value that the bus takes, in bytes.
pub(crate) const MAX_VALUE: usize = 1 << 20;

pub(crate) struct Remote(pub(crate) EmbeddedBus);

#[async_trait]
impl Bus for Remote {
    fn name(&self) -> &'static str {
        "remote"
    }

    fn carries_store(&self) -> bool {
        false
    }

    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<TopicReport, BusError> {
        self.0.ensure_topics(topics).await
    }

    async fn check_topics(&self, topics: &[TopicSpec]) -> Result<TopicReport, BusError> {
        self.0.check_topics(topics).await
    }

    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Placement, BusError>> {
        let mut results = Vec::with_capacity(records.len());
        for record in records {
            let size = record.value.len();
            if size > MAX_VALUE {
                results.push(Err(BusError::TooLarge { size, limit: MAX_VALUE }));
            } else {
                results.extend(self.0.publish(vec![record]).await);
            }
        }
        results
    }

    async fn subscribe(&self, group: GroupName, topics: &[EventType]) -> Result<Box<dyn Subscription>, BusError> {
        self.0.subscribe(group, topics).await
    }

    async fn begin_at_end(&self, group: GroupName, topics: &[EventType]) -> Result<(), BusError> {
        self.0.begin_at_end(group, topics).await
    }

    async fn lag(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<GroupLag>, BusError> {
        self.0.lag(group, topics).await
    }

    async fn extents(&self, topics: &[EventType]) -> Result<Vec<Extent>, BusError> {
        self.0.extents(topics).await
    }

    async fn offsets_at(&self, topics: &[EventType], time: SystemTime) -> Result<Vec<(Lane, u64)>, BusError> {
        self.0.offsets_at(topics, time).await
    }

    async fn committed(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<(Lane, u64)>, BusError> {
        self.0.committed(group, topics).await
    }

    async fn read(&self, lane: Lane, from: u64, until: u64) -> Result<Records, BusError> {
        self.0.read(lane, from, until).await
    }
}
