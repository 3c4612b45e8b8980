//! What is published from now on, without a group.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use super::{
    KafkaConfig, error,
    logs::{Logs, is_outage},
};
use crate::BusError;

/// How long a poll waits for a record. It also bounds how long the end takes.
const POLL: Duration = Duration::from_millis(200);

/// How often partitions that were added are looked for.
const LOOK: Duration = Duration::from_secs(60);

/// How long a question about the partitions waits for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long to wait before the partitions are asked for again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// A tail that goes on until it is dropped.
#[derive(Debug)]
pub struct Tail {
    ended: Arc<AtomicBool>,
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// Hands the key and the value of every record that is published from now on to `take`, in a thread of its own. Records
/// of one partition come in order. A cut is made up for; what was published before the first connection is not.
pub(super) fn start(
    config: &KafkaConfig,
    topics: Vec<&'static str>,
    take: impl Fn(&[u8], &[u8]) + Send + 'static,
) -> Result<Tail, BusError> {
    let mut settings = config.client();
    settings
        // The client wants a name, but no group is joined and nothing is committed.
        .set("group.id", format!("{}-tail", config.client_id))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "latest")
        .set("fetch.wait.max.ms", config.fetch_wait.as_millis().to_string());
    let member: BaseConsumer<Logs> = settings.create_with_context(Logs).map_err(|error| error::of("tail", &error))?;
    let ended = Arc::new(AtomicBool::new(false));
    let tail = Tail { ended: Arc::clone(&ended) };
    thread::Builder::new()
        .name("kafka-tail".to_owned())
        .spawn(move || {
            let mut look_at = Instant::now();
            while !ended.load(Ordering::Acquire) {
                if Instant::now() >= look_at {
                    let looked = assign(&member, &topics);
                    if let Err(error) = &looked {
                        tracing::warn!(%error, "can't look for partitions; trying again");
                    }
                    look_at = Instant::now() + if looked.is_ok() { LOOK } else { RETRY };
                }
                match member.poll(POLL) {
                    Some(Ok(message)) => {
                        take(message.key().unwrap_or_default(), message.payload().unwrap_or_default());
                    }
                    // The client goes on by itself.
                    Some(Err(error)) if !is_outage(&error) => tracing::warn!(%error, "kafka tail"),
                    Some(Err(_)) | None => {}
                }
            }
        })
        .map_err(|error| BusError::Unavailable(format!("no thread for the tail: {error}")))?;
    Ok(tail)
}

/// Adds the partitions that are not yet read, at their ends.
fn assign(member: &BaseConsumer<Logs>, topics: &[&'static str]) -> rdkafka::error::KafkaResult<()> {
    let metadata = member.fetch_metadata(None, ANSWER)?;
    let known = member.assignment()?;
    let mut fresh = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| topics.contains(&topic.name())) {
        for partition in topic.partitions() {
            if known.find_partition(topic.name(), partition.id()).is_none() {
                fresh.add_partition_offset(topic.name(), partition.id(), Offset::End)?;
            }
        }
    }
    if fresh.count() == 0 { Ok(()) } else { member.incremental_assign(&fresh) }
}
