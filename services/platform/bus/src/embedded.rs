//! The bus inside one process: the event table of the SQLite store is the topics.
//!
//! A record is visible when its append commits; groups keep their offsets in the same file; subscribers are woken at
//! once, and an idle one costs nothing. Everything survives a restart.

mod inspect;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use runmesh_events::{Catalog, EventType, GroupName, TopicSpec};
use runmesh_store::{
    EventStore as _, Position, SqliteStore, TypeWake,
    sqlite::records::{NewRecord, Origin, TableRecord},
};

use crate::{
    Batch, Bus, BusError, Delivery, Extent, GroupLag, Lane, Placement, Record, Records, Subscription, TopicReport,
};

/// How many records of one topic a read brings.
const READ: usize = 256;

/// The largest record.
const MAX_RECORD_BYTES: usize = 64 << 20;

/// The embedded bus over a store.
#[derive(Debug, Clone)]
pub struct EmbeddedBus {
    store: SqliteStore,
    members: Members,
}

/// The groups that have a member. One process holds the file, so one member does all of a group's work.
type Members = Arc<Mutex<HashMap<GroupName, usize>>>;

impl EmbeddedBus {
    /// The bus of this store.
    pub fn new(store: SqliteStore) -> Self {
        Self { store, members: Members::default() }
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn carries_store(&self) -> bool {
        true
    }

    async fn ensure_topics(&self, _topics: &[TopicSpec]) -> Result<TopicReport, BusError> {
        // Every event type is a topic of the table; none can be missing or different.
        Ok(TopicReport::default())
    }

    async fn check_topics(&self, _topics: &[TopicSpec]) -> Result<TopicReport, BusError> {
        Ok(TopicReport::default())
    }

    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Placement, BusError>> {
        let (mut new, mut places) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
        for record in records {
            places.push(acceptable(&record).map(|topic| partition_of(&record.key, topic.partitions)));
            if let Some(Ok(_)) = places.last() {
                new.push(NewRecord {
                    event_type: record.event_type,
                    key: record.key,
                    headers: record.headers,
                    body: record.value,
                    timestamp: record.timestamp,
                });
            }
        }
        // All that can be published are, or none: so no record overtakes another of its key.
        let published = if new.is_empty() { Ok(Vec::new()) } else { self.store.publish_records(new).await };
        let mut positions = published.as_ref().map(|positions| positions.iter()).map_err(Clone::clone);
        places
            .into_iter()
            .map(|place| {
                let partition = place?;
                let positions = positions.as_mut().map_err(|error| error.clone())?;
                Ok(Placement { partition, offset: positions.next().map_or(0, |position| position.0) })
            })
            .collect()
    }

    async fn subscribe(&self, group: GroupName, topics: &[EventType]) -> Result<Box<dyn Subscription>, BusError> {
        for event_type in topics {
            topic_of(*event_type)?;
        }
        {
            let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
            let count = members.entry(group).or_default();
            if *count > 0 {
                return Err(BusError::Invalid(format!("group {group} has a member in this process already")));
            }
            *count += 1;
        }
        let member = Member { members: Arc::clone(&self.members), group };
        // Before the offsets are read: nothing that is appended in between goes unseen.
        let wake = self.store.live().wake_on(topics);
        let mut cursors = Vec::with_capacity(topics.len());
        for event_type in topics {
            let position = self.store.group_offset(group.as_str(), *event_type).await?;
            cursors.push(Cursor { event_type: *event_type, position, read: VecDeque::new(), exhausted: false });
        }
        Ok(Box::new(EmbeddedSubscription { store: self.store.clone(), group, cursors, wake, _member: member }))
    }

    async fn begin_at_end(&self, group: GroupName, topics: &[EventType]) -> Result<(), BusError> {
        for event_type in topics {
            topic_of(*event_type)?;
        }
        Ok(self.store.begin_at_end(group.as_str(), topics.to_vec()).await?)
    }

    async fn lag(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<GroupLag>, BusError> {
        let mut lag = Vec::with_capacity(topics.len());
        for event_type in topics {
            topic_of(*event_type)?;
            let position = self.store.group_offset(group.as_str(), *event_type).await?;
            let records = self.store.count_records(*event_type, position).await?;
            lag.push(GroupLag { event_type: *event_type, records });
        }
        Ok(lag)
    }

    async fn extents(&self, topics: &[EventType]) -> Result<Vec<Extent>, BusError> {
        inspect::extents(&self.store, topics).await
    }

    async fn offsets_at(&self, topics: &[EventType], time: SystemTime) -> Result<Vec<(Lane, u64)>, BusError> {
        inspect::offsets_at(&self.store, topics, time).await
    }

    async fn committed(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<(Lane, u64)>, BusError> {
        inspect::committed(&self.store, group, topics).await
    }

    async fn read(&self, lane: Lane, from: u64, until: u64) -> Result<Records, BusError> {
        topic_of(lane.event_type)?;
        Ok(inspect::read(self.store.clone(), lane, from, until))
    }
}

/// The topic of a record that can be published.
fn acceptable(record: &Record) -> Result<&'static TopicSpec, BusError> {
    let topic = topic_of(record.event_type)?;
    if record.value.len() > MAX_RECORD_BYTES {
        return Err(BusError::TooLarge { size: record.value.len(), limit: MAX_RECORD_BYTES });
    }
    Ok(topic)
}

fn topic_of(event_type: EventType) -> Result<&'static TopicSpec, BusError> {
    Catalog::get()
        .topic(event_type)
        .ok_or_else(|| runmesh_events::UnknownTopic(event_type.as_str_name().to_owned()).into())
}

/// The partition of a key: Kafka's default, murmur2 with the sign bit cleared, modulo the number of partitions.
pub(crate) fn partition_of(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions.max(1)
}

/// Kafka's variant of MurmurHash2 (Austin Appleby, public domain), seed 0x9747b28c.
fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    #[allow(clippy::cast_possible_truncation, reason = "the hash is of the length modulo 2^32")]
    let mut h: u32 = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * index);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)).cast_signed()
}

#[derive(Debug)]
struct Member {
    members: Members,
    group: GroupName,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.group);
    }
}

struct EmbeddedSubscription {
    store: SqliteStore,
    group: GroupName,
    cursors: Vec<Cursor>,
    wake: Arc<TypeWake>,
    _member: Member,
}

/// Where the subscription is in one topic.
#[derive(Debug)]
struct Cursor {
    event_type: EventType,
    /// Where the next read of the topic goes on.
    position: Position,
    read: VecDeque<TableRecord>,
    /// Whether the topic had nothing more when it was last read.
    exhausted: bool,
}

#[async_trait]
impl Subscription for EmbeddedSubscription {
    async fn next(&mut self) -> Result<Batch, BusError> {
        loop {
            let records = self.read().await?;
            if !records.is_empty() {
                return Ok(Batch::Records(records));
            }
            let woken = self.wake.woken().await;
            for cursor in &mut self.cursors {
                cursor.exhausted &= !woken.contains(cursor.event_type);
            }
        }
    }

    async fn commit(&mut self, offsets: &[(Lane, u64)]) -> Result<(), BusError> {
        let offsets = offsets.iter().map(|(lane, offset)| (lane.event_type, Position(*offset))).collect();
        Ok(self.store.commit_offsets(self.group.as_str(), offsets).await?)
    }
}

impl EmbeddedSubscription {
    /// The next records over all topics in the order of their positions: the order in which they were appended.
    async fn read(&mut self) -> Result<Vec<Delivery>, BusError> {
        let mut hungry: Vec<&mut Cursor> =
            self.cursors.iter_mut().filter(|cursor| cursor.read.is_empty() && !cursor.exhausted).collect();
        if !hungry.is_empty() {
            let places = hungry.iter().map(|cursor| (cursor.event_type, cursor.position)).collect();
            let found = self.store.records(places, READ).await?;
            for (cursor, found) in hungry.iter_mut().zip(found) {
                cursor.exhausted = found.records.len() < READ;
                cursor.position = found.upto;
                cursor.read.extend(found.records);
            }
        }
        // A topic with more behind what was read bounds the merge: beyond its last record others may have to wait.
        let bound = self
            .cursors
            .iter()
            .filter(|cursor| !cursor.exhausted)
            .filter_map(|cursor| cursor.read.back().map(|record| record.position))
            .min();
        let mut records = Vec::new();
        for cursor in &mut self.cursors {
            while let Some(record) = cursor.read.pop_front_if(|record| bound.is_none_or(|b| record.position <= b)) {
                records.push(record);
            }
        }
        records.sort_by_key(|record| record.position);
        Ok(records.into_iter().map(delivery).collect())
    }
}

fn delivery(record: TableRecord) -> Delivery {
    let (key, extra_headers, decoded) = match record.origin {
        Origin::Fact(event) => (Bytes::copy_from_slice(event.aggregate_id.as_bytes()), Vec::new(), Some(event)),
        Origin::Published { key, headers } => (key, headers, None),
    };
    let partitions = Catalog::get().topic(record.event_type).map_or(1, |topic| topic.partitions);
    Delivery {
        lane: Lane { event_type: record.event_type, partition: 0 },
        offset: record.position.0,
        event_type: record.event_type,
        partition: partition_of(&key, partitions),
        key,
        extra_headers,
        value: record.body,
        timestamp: record.recorded_at,
        decoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_those_of_the_java_client() {
        // org.apache.kafka.common.utils.UtilsTest: the hashes that Kafka's own tests pin.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }
}
