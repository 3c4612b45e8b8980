//! A group's member: the thread that polls, and what the consumer holds of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    thread,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Headers as _},
};
use runmesh_events::{Catalog, GroupName};

use super::{
    KafkaConfig, blocking, error,
    handoff::{Handoff, Pressure},
    logs, topic_of,
};
use crate::{Batch, BusError, Delivery, Headers, Lane, Subscription};

/// How long a poll waits for a record. It also bounds how long leaving takes.
const POLL: Duration = Duration::from_millis(100);

/// The same while partitions are paused: then the consumer, not a record, is what is waited for.
const POLL_PAUSED: Duration = Duration::from_millis(5);

/// How many records are taken between two looks at the pressure.
const BURST: usize = 256;

type Member = BaseConsumer<Rebalances>;

/// A member of a group. Dropping it leaves the group.
pub(super) struct KafkaSubscription {
    handoff: Arc<Handoff>,
    // The thread owns the member: dropping it waits for the brokers.
    member: Weak<Member>,
}

impl KafkaSubscription {
    pub(super) fn join(config: &KafkaConfig, group: GroupName, topics: &[&str]) -> Result<Self, BusError> {
        let handoff = Arc::new(Handoff::default());
        let context = Rebalances { handoff: Arc::clone(&handoff), patience: config.revoke_patience };
        let member: Member =
            config.member(group).create_with_context(context).map_err(|error| error::of("consumer", &error))?;
        member.subscribe(topics).map_err(|error| error::of("subscribe", &error))?;
        let member = Arc::new(member);
        let subscription = Self { handoff: Arc::clone(&handoff), member: Arc::downgrade(&member) };
        thread::Builder::new()
            .name(format!("kafka-{group}"))
            .spawn(move || poll(&member, &handoff))
            .map_err(|error| BusError::Unavailable(format!("no thread for the consumer: {error}")))?;
        Ok(subscription)
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
        self.handoff.next().await
    }

    async fn commit(&mut self, offsets: &[(Lane, u64)]) -> Result<(), BusError> {
        // What was taken away is the other member's to commit.
        let offsets = self.handoff.committable(offsets);
        if offsets.is_empty() {
            return Ok(());
        }
        let member = Weak::clone(&self.member);
        blocking(move || {
            let mut places = TopicPartitionList::with_capacity(offsets.len());
            for (lane, offset) in offsets {
                let topic = topic_of(lane.event_type)?;
                let next = i64::try_from(offset).unwrap_or(i64::MAX).saturating_add(1);
                places
                    .add_partition_offset(&topic.name, lane.partition, Offset::Offset(next))
                    .map_err(|error| error::of("commit", &error))?;
            }
            let Some(member) = member.upgrade() else {
                return Err(BusError::Unavailable("the member has left its group".to_owned()));
            };
            member.commit(&places, CommitMode::Sync).map_err(|error| error::of("commit", &error))
        })
        .await
    }
}

fn poll(member: &Member, handoff: &Handoff) {
    // Whether some of the partitions are paused, and whether all are.
    let (mut paused, mut all_paused) = (false, false);
    while !handoff.has_left() {
        if handoff.take_assigned() {
            all_paused = false;
        }
        match handoff.pressure() {
            Pressure::Full if !all_paused => {
                all_paused = switch(member, "pause", |all| member.pause(all));
                paused |= all_paused;
            }
            Pressure::Low if paused => {
                paused = !switch(member, "resume", |all| member.resume(all));
                all_paused &= paused;
            }
            _ => {}
        }
        let mut wait = if paused { POLL_PAUSED } else { POLL };
        for _ in 0..BURST {
            match member.poll(wait) {
                Some(Ok(message)) => {
                    if let Some(record) = delivery(&message) {
                        handoff.push(record);
                    }
                }
                Some(Err(fatal @ KafkaError::MessageConsumptionFatal(_))) => {
                    handoff.fail(error::of("poll", &fatal));
                    return;
                }
                // The client goes on by itself.
                Some(Err(error)) => tracing::warn!(%error, "kafka consumer"),
                None => break,
            }
            wait = Duration::ZERO;
        }
    }
}

fn switch(member: &Member, what: &str, action: impl FnOnce(&TopicPartitionList) -> KafkaResult<()>) -> bool {
    let done = member.assignment().and_then(|all| action(&all));
    if let Err(error) = &done {
        tracing::warn!(%error, what, "partitions can't be switched; trying again");
    }
    done.is_ok()
}

fn delivery(message: &BorrowedMessage<'_>) -> Option<Delivery> {
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

/// Hears of partitions that come and go. Called by the polling thread, inside a poll.
struct Rebalances {
    handoff: Arc<Handoff>,
    patience: Duration,
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        logs::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        logs::failed(&error, reason);
    }
}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                let lanes = lanes(partitions);
                tracing::debug!(?lanes, "assigned");
                self.handoff.assigned(&lanes);
            }
            Rebalance::Revoke(partitions) => {
                let lanes = lanes(partitions);
                let lost = member.assignment_lost();
                tracing::debug!(?lanes, lost, "revoked");
                if lanes.is_empty() {
                } else if lost {
                    self.handoff.lost(&lanes);
                } else {
                    self.handoff.revoke(&lanes, self.patience);
                }
            }
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance"),
        }
    }
}

fn lanes(partitions: &TopicPartitionList) -> Vec<Lane> {
    let catalog = Catalog::get();
    partitions
        .elements()
        .iter()
        .filter_map(|element| {
            let event_type = catalog.event_type(element.topic()).ok()?;
            Some(Lane { event_type, partition: element.partition() })
        })
        .collect()
}
