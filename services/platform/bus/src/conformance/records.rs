//! What happens to records between a publish and a subscription.

use std::collections::HashMap;

use bytes::Bytes;
use runmesh_events::{Catalog, EventType, GroupName};

use super::{Harness, TOPIC, TOPIC_2, record, subscriptions::read};
use crate::{BusError, Record, embedded::partition_of};

const GROUP: GroupName = GroupName::new("records");

/// Records of one key arrive in the order in which they were published, whatever the number of keys; each key has its
/// partition, the one that a Java client would choose.
pub async fn records_of_a_key_arrive_in_order<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let keys: Vec<String> = (0..40).map(|key| format!("key-{key}")).collect();
    for sequence in 1..=25 {
        let records = keys.iter().map(|key| record(TOPIC, key, sequence)).collect();
        let partitions = Catalog::get().topic(TOPIC).unwrap().partitions;
        for (key, placement) in keys.iter().zip(bus.publish(records).await) {
            assert_eq!(placement.unwrap().partition, partition_of(key.as_bytes(), partitions));
        }
    }
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let mut last: HashMap<Bytes, u64> = HashMap::new();
    let mut last_offset = HashMap::new();
    for delivery in read(subscription.as_mut(), 1_000).await {
        let event = delivery.event().unwrap();
        let previous = last.insert(delivery.key.clone(), event.sequence).unwrap_or_default();
        assert_eq!(event.sequence, previous + 1, "of {}", event.aggregate_id);
        let before = last_offset.insert(delivery.lane, delivery.offset);
        assert!(before.is_none_or(|before| before < delivery.offset), "offsets grow");
    }
    assert!(last.len() == 40 && last.values().all(|sequence| *sequence == 25));
}

/// Nothing of a record is lost or changed on the way; headers keep their order, and repeated names stay.
pub async fn headers_key_and_time_survive<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let mut published = record(TOPIC, "a", 1);
    published.headers.push(("x-one".to_owned(), Bytes::from_static(b"\xff\x00binary")));
    published.headers.push(("x-two".to_owned(), Bytes::new()));
    published.headers.push(("x-one".to_owned(), Bytes::from_static(b"again")));
    let placement = bus.publish(vec![published.clone()]).await.remove(0).unwrap();
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let delivery = read(subscription.as_mut(), 1).await.remove(0);
    assert_eq!(delivery.headers(), published.headers);
    assert_eq!(delivery.key, published.key);
    assert_eq!(delivery.value, published.value);
    assert_eq!(delivery.timestamp, published.timestamp);
    assert_eq!((delivery.event_type, delivery.partition), (TOPIC, placement.partition));
    assert_eq!(delivery.offset, placement.offset);
}

/// What is no event type has no topic; the records beside it are published.
pub async fn an_unknown_topic_is_an_error<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let unknown = Record { event_type: EventType::Unspecified, ..record(TOPIC, "a", 1) };
    let results = bus.publish(vec![record(TOPIC, "a", 1), unknown, record(TOPIC_2, "a", 2)]).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert!(matches!(&results[1], Err(error @ BusError::UnknownTopic(_)) if !error.is_transient()), "{results:?}");
    let none = [EventType::Unspecified];
    assert!(matches!(bus.subscribe(GROUP, &none).await, Err(BusError::UnknownTopic(_))));
    assert!(matches!(bus.lag(GROUP, &none).await, Err(BusError::UnknownTopic(_))));
}

/// A record of several MiB travels; one that is too large fails for good, and those around it with the same key do not.
pub async fn a_large_record_travels_and_a_larger_one_is_refused_alone<H: Harness>() {
    let harness = H::new().await;
    let bus = harness.bus();
    let large = Record { value: vec![7; 3 << 20].into(), ..record(TOPIC, "a", 1) };
    let too_large = Record { value: vec![7; harness.too_large()].into(), ..record(TOPIC, "a", 2) };
    let results = bus.publish(vec![large.clone(), too_large, record(TOPIC, "a", 3)]).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert!(matches!(&results[1], Err(error @ BusError::TooLarge { .. }) if !error.is_transient()), "{:?}", results[1]);
    let mut subscription = bus.subscribe(GROUP, &[TOPIC]).await.unwrap();
    let deliveries = read(subscription.as_mut(), 2).await;
    assert_eq!(deliveries[0].value, large.value);
    assert_eq!(deliveries[1].event().unwrap().sequence, 3);
}
