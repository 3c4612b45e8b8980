//! A group's member, as its consumer has it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    message::{BorrowedMessage, Headers as _},
};
use runmesh_events::{Catalog, GroupName};

use super::{
    KafkaConfig, blocking, error,
    handoff::Handoff,
    member::{Member, Place},
    topic_of,
};
use crate::{Batch, BusError, Delivery, Headers, Lane, Membership, Subscription};

/// How long leaving a group may take.
const LEAVE: Duration = Duration::from_secs(5);

/// A member of a group. Dropping it leaves the group.
pub(super) struct KafkaSubscription {
    handoff: Arc<Handoff>,
    place: Arc<Place>,
}

impl KafkaSubscription {
    pub(super) fn join(config: &KafkaConfig, group: GroupName, topics: Vec<&'static str>) -> Result<Self, BusError> {
        let handoff = Arc::new(Handoff::new(config.stand_still()));
        let place = Member::start(config, group, topics, Arc::clone(&handoff))?;
        Ok(Self { handoff, place })
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.handoff.leave();
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn next(&mut self) -> Result<Batch, BusError> {
        self.handoff.next(true).await
    }

    async fn moved(&mut self) -> Result<Batch, BusError> {
        self.handoff.next(false).await
    }

    async fn commit(&mut self, offsets: &[(Lane, u64)]) -> Result<(), BusError> {
        // What was taken away is the other member's to commit.
        let offsets = self.handoff.committable(offsets);
        if offsets.is_empty() {
            return Ok(());
        }
        let place = Arc::clone(&self.place);
        blocking(move || {
            let mut places = TopicPartitionList::with_capacity(offsets.len());
            for (lane, offset) in offsets {
                let topic = topic_of(lane.event_type)?;
                let next = i64::try_from(offset).unwrap_or(i64::MAX).saturating_add(1);
                places
                    .add_partition_offset(&topic.name, lane.partition, Offset::Offset(next))
                    .map_err(|error| error::of("commit", &error))?;
            }
            place.commit(&places)
        })
        .await
    }

    fn membership(&self) -> Membership {
        self.handoff.membership()
    }

    async fn leave(&mut self) {
        self.handoff.leave();
        self.handoff.until_gone(LEAVE).await;
    }
}

pub(super) fn delivery(message: &BorrowedMessage<'_>) -> Option<Delivery> {
    let event_type = Catalog::get().event_type(message.topic()).ok()?;
    let millis = message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok()).unwrap_or_default();
    Some(Delivery {
        lane: Lane { event_type, partition: message.partition() },
        offset: u64::try_from(message.offset()).ok()?,
        event_type,
        partition: message.partition(),
        key: message.key().map(Bytes::copy_from_slice).unwrap_or_default(),
        extra_headers: headers(message),
        value: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
        decoded: None,
    })
}

fn headers(message: &BorrowedMessage<'_>) -> Headers {
    let Some(found) = message.headers() else { return Headers::new() };
    let mut headers = Headers::with_capacity(found.count());
    for index in 0..found.count() {
        // The crate panics at a name that is not UTF-8. Anyone can write such a record; it must not stop the group.
        let header = catch_unwind(AssertUnwindSafe(|| {
            let header = found.get(index);
            (header.key.to_owned(), header.value.map(Bytes::copy_from_slice).unwrap_or_default())
        }));
        headers.push(header.unwrap_or_default());
    }
    headers
}
