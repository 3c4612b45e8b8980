//! What the topics hold and what groups have committed, seen from beside: nothing here joins a group.

use std::{
    collections::HashMap,
    ops::Range,
    thread,
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
};
use runmesh_events::{Catalog, EventType, GroupName, TopicSpec};
use tokio::sync::mpsc;

use super::{KafkaConfig, error, logs::Logs, subscription::delivery, topic_of};
use crate::{BusError, Delivery, Extent, Lane, Records};

/// How long a poll waits for a record. It also bounds how long a reading that was given up goes on.
const POLL: Duration = Duration::from_millis(100);

/// How long the end of a partition has to stay where it is before what lies beyond it is taken to be gone: after a change
/// of its leader it may be seen too early for a moment.
const SETTLE: Duration = Duration::from_secs(2);

/// How many records are handed on together, at most.
const BATCH: usize = 256;

/// How many batches wait for the reader.
const BATCHES: usize = 4;

/// How much a reading holds in memory before it is handed on, in KiB, unless one record is larger.
const PREFETCH_KIB: usize = 4 << 10;

type Observer = BaseConsumer<Logs>;

/// A client that looks at the cluster in the name of a group, or of none.
fn observer(config: &KafkaConfig, group: Option<GroupName>) -> Result<Observer, BusError> {
    let mut settings = nameless(config);
    if let Some(group) = group {
        settings.set("group.id", group.as_str());
    }
    settings.create_with_context(Logs).map_err(|error| error::of("observer", &error))
}

fn nameless(config: &KafkaConfig) -> ClientConfig {
    let mut settings = config.client();
    settings
        // The client wants a name, but no group is joined and nothing is committed.
        .set("group.id", format!("{}-inspect", config.client_id))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    settings
}

/// All partitions of these topics, each with this offset.
fn partitions(
    config: &KafkaConfig,
    observer: &Observer,
    topics: &[EventType],
    offset: Offset,
) -> Result<TopicPartitionList, BusError> {
    let failed = |error| error::of("topics", &error);
    let names = topics.iter().map(|event_type| Ok(topic_of(*event_type)?.name.as_str()));
    let names = names.collect::<Result<Vec<_>, BusError>>()?;
    // All topics at once: to ask for one that is missing could make it.
    let metadata = observer.fetch_metadata(None, config.request_timeout).map_err(failed)?;
    let mut places = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| names.contains(&topic.name())) {
        for partition in topic.partitions() {
            places.add_partition_offset(topic.name(), partition.id(), offset).map_err(failed)?;
        }
    }
    Ok(places)
}

/// The lanes of the list that have an offset.
fn offsets(places: &TopicPartitionList, what: &str) -> Result<Vec<(Lane, u64)>, BusError> {
    let mut offsets = Vec::with_capacity(places.count());
    for place in places.elements() {
        place.error().map_err(|error| error::of(what, &error))?;
        if let Offset::Offset(offset) = place.offset() {
            let lane = Lane { event_type: Catalog::get().event_type(place.topic())?, partition: place.partition() };
            offsets.push((lane, u64::try_from(offset).unwrap_or_default()));
        }
    }
    Ok(offsets)
}

/// The offsets of all partitions by a time, where the two ends stand for themselves. One question to each broker.
fn lookup(config: &KafkaConfig, topics: &[EventType], time: Offset) -> Result<Vec<(Lane, u64)>, BusError> {
    let observer = observer(config, None)?;
    let places = partitions(config, &observer, topics, time)?;
    if places.count() == 0 {
        return Ok(Vec::new());
    }
    let found =
        observer.offsets_for_times(places, config.request_timeout).map_err(|error| error::of("offsets", &error))?;
    offsets(&found, "offsets")
}

pub(super) fn extents(config: &KafkaConfig, topics: &[EventType]) -> Result<Vec<Extent>, BusError> {
    // The ends first: records come and go meanwhile, but none before the beginning that is found is missed.
    let ends = lookup(config, topics, Offset::End)?;
    let firsts: HashMap<Lane, u64> = lookup(config, topics, Offset::Beginning)?.into_iter().collect();
    let extent = |(lane, next): (Lane, u64)| {
        let first = firsts.get(&lane).copied().unwrap_or(next);
        Extent { lane, first, next: next.max(first) }
    };
    Ok(ends.into_iter().map(extent).collect())
}

pub(super) fn offsets_at(
    config: &KafkaConfig,
    topics: &[EventType],
    time: SystemTime,
) -> Result<Vec<(Lane, u64)>, BusError> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    lookup(config, topics, Offset::Offset(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

pub(super) fn committed(
    config: &KafkaConfig,
    group: GroupName,
    topics: &[EventType],
) -> Result<Vec<(Lane, u64)>, BusError> {
    let observer = observer(config, Some(group))?;
    let places = partitions(config, &observer, topics, Offset::Invalid)?;
    if places.count() == 0 {
        return Ok(Vec::new());
    }
    let committed = observer
        .committed_offsets(places, config.request_timeout)
        .map_err(|error| error::of("committed offsets", &error))?;
    offsets(&committed, "committed offsets")
}

/// Commits the ends of the topics for a group that has committed nothing on any of them.
pub(super) fn begin_at_end(config: &KafkaConfig, group: GroupName, topics: &[EventType]) -> Result<(), BusError> {
    if !committed(config, group, topics)?.is_empty() {
        return Ok(());
    }
    let failed = |error| error::of("commit", &error);
    let mut places = TopicPartitionList::new();
    for Extent { lane, next, .. } in extents(config, topics)? {
        let next = Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX));
        places.add_partition_offset(&topic_of(lane.event_type)?.name, lane.partition, next).map_err(failed)?;
    }
    if places.count() == 0 {
        return Ok(());
    }
    observer(config, Some(group))?.commit(&places, CommitMode::Sync).map_err(failed)
}

/// Reads a lane in a thread of its own, by one client for all of it.
pub(super) fn read(
    config: &KafkaConfig,
    topic: &'static TopicSpec,
    lane: Lane,
    range: Range<u64>,
) -> Result<Records, BusError> {
    if range.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let mut settings = nameless(config);
    settings
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", POLL.as_millis().to_string())
        .set("queued.max.messages.kbytes", PREFETCH_KIB.max(config.max_batch_bytes().div_ceil(1024)).to_string())
        .set("check.crcs", "true");
    let failed = |error| error::of("read", &error);
    let client: Observer = settings.create_with_context(Logs).map_err(failed)?;
    let mut place = TopicPartitionList::with_capacity(1);
    let from = Offset::Offset(i64::try_from(range.start).unwrap_or(i64::MAX));
    place.add_partition_offset(&topic.name, lane.partition, from).map_err(failed)?;
    client.assign(&place).map_err(failed)?;
    let (steps, taken) = mpsc::channel(BATCHES);
    let reading = Reading { client, steps, until: range.end, patience: config.request_timeout };
    thread::Builder::new()
        .name("kafka-read".to_owned())
        .spawn(move || reading.run())
        .map_err(|error| BusError::Unavailable(format!("no thread for a reading: {error}")))?;
    let batches = stream::try_unfold(taken, |mut taken| async move {
        match taken.recv().await {
            Some(Ok(Step::Records(records))) => Ok(Some((stream::iter(records.into_iter().map(Ok)), taken))),
            Some(Ok(Step::End)) => Ok(None),
            Some(Err(error)) => Err(error),
            // What comes to no end must not look like a lane without records.
            None => Err(BusError::Unavailable("read: the reading broke off".to_owned())),
        }
    });
    Ok(batches.try_flatten().boxed())
}

/// What a reading hands on.
enum Step {
    Records(Vec<Delivery>),
    End,
}

/// A lane that is being read.
struct Reading {
    client: Observer,
    steps: mpsc::Sender<Result<Step, BusError>>,
    until: u64,
    patience: Duration,
}

impl Reading {
    fn run(self) {
        let end = self.poll().map(|()| Step::End);
        // Whoever reads may have gone away.
        let _ = self.steps.blocking_send(end);
    }

    fn poll(&self) -> Result<(), BusError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut give_up_at = Instant::now() + self.patience;
        let mut end_since = None;
        while !self.steps.is_closed() {
            // What is there already is handed on before anything is waited for.
            let wait = if batch.is_empty() { POLL } else { Duration::ZERO };
            match self.client.poll(wait) {
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or_default();
                    if offset < self.until {
                        batch.extend(delivery(&message));
                    }
                    if offset + 1 >= self.until {
                        self.hand_on(&mut batch);
                        return Ok(());
                    }
                    if batch.len() >= BATCH {
                        self.hand_on(&mut batch);
                    }
                    // After the hand-over: how long the reader takes is its own affair.
                    give_up_at = Instant::now() + self.patience;
                    end_since = None;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => end_since = Some(Instant::now()),
                Some(Err(fatal @ KafkaError::MessageConsumptionFatal(_))) => return Err(error::of("read", &fatal)),
                Some(Err(error)) if Instant::now() >= give_up_at => return Err(error::of("read", &error)),
                // The client goes on by itself.
                Some(Err(error)) => tracing::warn!(%error, "kafka read"),
                None if !batch.is_empty() => self.hand_on(&mut batch),
                // The records up to `until` are no longer there.
                None if end_since.is_some_and(|since| since.elapsed() >= SETTLE) => return Ok(()),
                None if Instant::now() >= give_up_at => {
                    let patience = self.patience;
                    return Err(BusError::Unavailable(format!("read: no records came for {patience:?}")));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn hand_on(&self, batch: &mut Vec<Delivery>) {
        if !batch.is_empty() {
            let full = std::mem::replace(batch, Vec::with_capacity(BATCH));
            // Whoever reads may have gone away.
            let _ = self.steps.blocking_send(Ok(Step::Records(full)));
        }
    }
}
