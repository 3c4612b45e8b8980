//! Events and records to publish.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use runmesh_events::{Catalog, Event, EventId, EventType, TraceParent, to_timestamp};
use runmesh_proto::event::{ExecutionStarted, PodCreated, event::Payload};

use crate::{Record, embedded::partition_of};

/// The topic of most cases. It has several partitions.
pub const TOPIC: EventType = EventType::ExecutionStarted;

/// Another topic.
pub const TOPIC_2: EventType = EventType::PodCreated;

/// An event of [`TOPIC`] or [`TOPIC_2`].
pub fn sample(event_type: EventType, aggregate: &str, sequence: u64) -> Event {
    let payload = match event_type {
        TOPIC => Payload::from(ExecutionStarted { execution_id: aggregate.to_owned(), ..Default::default() }),
        TOPIC_2 => Payload::from(PodCreated { execution_id: aggregate.to_owned(), ..Default::default() }),
        other => panic!("no sample of {other:?}"),
    };
    let occurred_at = sample_time() + Duration::from_millis(sequence);
    Event {
        event_id: EventId::new().to_string(),
        aggregate_id: aggregate.to_owned(),
        sequence,
        occurred_at: Some(to_timestamp(occurred_at)),
        correlation_id: "correlation".to_owned(),
        producer: "conformance".to_owned(),
        traceparent: TraceParent::new_root().to_string(),
        payload: Some(payload),
        ..Default::default()
    }
}

/// The time of a sample with the sequence 0: not now, but not so long ago that a broker would throw it away, in the
/// milliseconds that every bus keeps.
pub fn sample_time() -> SystemTime {
    static START: LazyLock<u64> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs() / 3_600 * 3_600 - 3_600
    });
    SystemTime::UNIX_EPOCH + Duration::from_secs(*START) + Duration::from_millis(123)
}

/// The record of a sample.
pub fn record(event_type: EventType, aggregate: &str, sequence: u64) -> Record {
    Record::of(&sample(event_type, aggregate, sequence)).unwrap()
}

/// Another key in the same partition of the topic.
pub fn key_beside(event_type: EventType, key: &str) -> String {
    let partitions = Catalog::get().topic(event_type).unwrap().partitions;
    let wanted = partition_of(key.as_bytes(), partitions);
    (0..)
        .map(|number| format!("{key}-beside-{number}"))
        .find(|other| partition_of(other.as_bytes(), partitions) == wanted)
        .unwrap()
}
