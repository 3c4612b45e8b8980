//! How far a group is behind.

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use runmesh_events::{EventType, GroupName};

use super::{KafkaConfig, error, logs::Logs, topic_of};
use crate::{BusError, GroupLag};

/// The group's lag on each topic: the records between what it committed and the end of each partition.
pub(super) fn of(config: &KafkaConfig, group: GroupName, topics: &[EventType]) -> Result<Vec<GroupLag>, BusError> {
    let failed = |error| error::of("lag", &error);
    // It knows the group but does not join it.
    let observer: BaseConsumer<Logs> = config.member(group).create_with_context(Logs).map_err(failed)?;
    // All topics at once: to ask for one that is missing could make it.
    let metadata = observer.fetch_metadata(None, config.request_timeout).map_err(failed)?;
    let mut lag = Vec::with_capacity(topics.len());
    for event_type in topics {
        let topic = topic_of(*event_type)?.name.as_str();
        let found = metadata.topics().iter().filter(|found| found.name() == topic);
        let mut places = TopicPartitionList::new();
        for partition in found.flat_map(|found| found.partitions()) {
            places.add_partition(topic, partition.id());
        }
        let committed = observer.committed_offsets(places, config.request_timeout).map_err(failed)?;
        let mut records = 0;
        for place in committed.elements() {
            place.error().map_err(failed)?;
            let (first, end) =
                observer.fetch_watermarks(topic, place.partition(), config.request_timeout).map_err(failed)?;
            let next = match place.offset() {
                Offset::Offset(offset) => offset.max(first),
                _ => first,
            };
            records += u64::try_from(end.saturating_sub(next)).unwrap_or_default();
        }
        lag.push(GroupLag { event_type: *event_type, records });
    }
    Ok(lag)
}
