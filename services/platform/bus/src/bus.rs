//! The narrow trait that every backend implements.

use std::{collections::BTreeMap, time::SystemTime};

use async_trait::async_trait;
use futures::stream::BoxStream;
use runmesh_events::{EventType, GroupName, TopicSpec};

use crate::{BusError, Delivery, Membership, Record};

/// A sequence of offsets that a backend commits by itself: a partition of a topic, or a whole topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The topic's event type.
    pub event_type: EventType,
    /// The partition. 0 where the backend commits whole topics.
    pub partition: i32,
}

/// Where a published record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: u64,
}

/// A setting of a topic that is not what the catalog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDrift {
    /// The topic's name.
    pub topic: String,
    /// The setting.
    pub setting: &'static str,
    /// What the catalog says.
    pub wanted: String,
    /// What the topic has.
    pub found: String,
}

/// What ensuring the topics did and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicReport {
    /// Topics that were made.
    pub created: Vec<String>,
    /// Topics that were given more partitions.
    pub grown: Vec<String>,
    /// Settings that are not as wanted and were left alone.
    pub drift: Vec<TopicDrift>,
}

/// How far a group is behind on one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLag {
    /// The topic's event type.
    pub event_type: EventType,
    /// The number of records that the group has not finished.
    pub records: u64,
}

/// What a lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The lane.
    pub lane: Lane,
    /// The offset of the oldest record that may still be read.
    pub first: u64,
    /// Greater than the offset of every record so far. Equal to `first` where there is nothing to read.
    pub next: u64,
}

/// What a subscription yields.
#[derive(Debug)]
pub enum Batch {
    /// Records, in order within each lane.
    Records(Vec<Delivery>),
    /// These lanes belong to another member of the group from now on. The consumer finishes what it has of them, commits,
    /// and then asks for the next batch, which lets the lanes go.
    Revoked(Vec<Lane>),
    /// These lanes belong to another member already. The consumer begins nothing more of them; nothing of them can be
    /// committed.
    Lost(Vec<Lane>),
}

/// Moves records. Clones of the handle share the connection.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// The backend's name, for logs and metrics.
    fn name(&self) -> &'static str;

    /// Whether an appended event is on its topic as soon as the append commits, without being published.
    fn carries_store(&self) -> bool;

    /// Makes the topics that are missing, adds partitions where there are too few, and reports what differs. Idempotent.
    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<TopicReport, BusError>;

    /// The same comparison as [`Bus::ensure_topics`], without a change: missing topics are in `created`, those with too
    /// few partitions in `grown`.
    async fn check_topics(&self, topics: &[TopicSpec]) -> Result<TopicReport, BusError>;

    /// Publishes records in this order, and waits until each is durable or has failed. A result for each record.
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Placement, BusError>>;

    /// The same, but records of a type that is in `topics` go to the topic of that name, which has to be there.
    async fn publish_mapped(
        &self,
        records: Vec<Record>,
        topics: &BTreeMap<EventType, String>,
    ) -> Vec<Result<Placement, BusError>> {
        if topics.is_empty() {
            return self.publish(records).await;
        }
        let words = format!("the bus {} has the topics of event types alone", self.name());
        records.iter().map(|_| Err(BusError::Invalid(words.clone()))).collect()
    }

    /// Joins a group. A new group starts at the earliest records.
    async fn subscribe(&self, group: GroupName, topics: &[EventType]) -> Result<Box<dyn Subscription>, BusError>;

    /// Has a new group begin behind what these topics hold now, for one that nothing before it can be meant for. A group that
    /// has committed anything on one of them stays where it is. To be called before the group has members.
    async fn begin_at_end(&self, group: GroupName, topics: &[EventType]) -> Result<(), BusError>;

    /// How far a group is behind.
    async fn lag(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<GroupLag>, BusError>;

    /// What the lanes of these topics hold. A topic that is missing has no lanes.
    async fn extents(&self, topics: &[EventType]) -> Result<Vec<Extent>, BusError>;

    /// For each lane of these topics the offset of its first record of this time or later. Lanes without one are left
    /// out.
    async fn offsets_at(&self, topics: &[EventType], time: SystemTime) -> Result<Vec<(Lane, u64)>, BusError>;

    /// The offset at which the group goes on in each lane of these topics. Lanes of which it has not committed anything are
    /// left out: there it begins with the earliest record.
    async fn committed(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<(Lane, u64)>, BusError>;

    /// The records of a lane from the offset `from` on, included, up to `until`, excluded, in order. No group is joined and
    /// nothing is committed. Records that are no longer there are left out; the stream ends all the same.
    async fn read(&self, lane: Lane, from: u64, until: u64) -> Result<Records, BusError>;
}

/// The records of a lane. Dropping it ends the reading. It ends after the first error.
pub type Records = BoxStream<'static, Result<Delivery, BusError>>;

/// A member of a group. Dropping it leaves the group.
#[async_trait]
pub trait Subscription: Send {
    /// The next records, at least one; waits for them. Cancel-safe: a call that is dropped loses nothing.
    async fn next(&mut self) -> Result<Batch, BusError>;

    /// The same for a consumer that has no room: waits until lanes are taken away, and leaves the records where they are.
    async fn moved(&mut self) -> Result<Batch, BusError> {
        std::future::pending().await
    }

    /// Commits that every record of each lane up to this offset, included, is finished.
    async fn commit(&mut self, offsets: &[(Lane, u64)]) -> Result<(), BusError>;

    /// Whether what was delivered may be begun.
    fn membership(&self) -> Membership {
        Membership::certain()
    }

    /// Leaves the group, and waits until the others can take over, though only for some seconds.
    async fn leave(&mut self) {}
}
