//! What a consumer that knows nothing of Runmesh finds.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig, Message as _,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
};
use runmesh_bus::{
    Bus as _, KafkaBus, Record,
    conformance::{TOPIC, sample},
};

use crate::cluster::Cluster;

/// A CloudEvent in binary mode: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_a_cloud_event_in_binary_mode() {
    let cluster = Cluster::start();
    let bus = KafkaBus::open(cluster.config()).unwrap();
    let event = sample(TOPIC, "aggregate-1", 7);
    let record = Record::of(&event).unwrap();
    bus.publish(vec![record.clone()]).await.remove(0).unwrap();
    let brokers = cluster.brokers().to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "foreign")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        consumer.subscribe(&["execution_started"]).unwrap();
        for _ in 0..600 {
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                return message.unwrap().detach();
            }
        }
        panic!("nothing came");
    });
    let message = read.await.unwrap();
    assert_eq!(message.key(), Some(&b"aggregate-1"[..]));
    assert_eq!(message.payload(), Some(&record.value[..]));
    let headers: BTreeMap<String, String> = message
        .headers()
        .unwrap()
        .iter()
        .map(|header| (header.key.to_owned(), String::from_utf8(header.value.unwrap().to_vec()).unwrap()))
        .collect();
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_id", &event.event_id),
        ("ce_source", "/runmesh/conformance"),
        ("ce_type", "runmesh.event.v1.execution_started"),
        ("ce_subject", "aggregate-1"),
        ("ce_time", "2023-11-14T22:13:20.130Z"),
        ("ce_sequence", "7"),
        ("content-type", "application/protobuf"),
        ("traceparent", &event.traceparent),
    ];
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(headers, expected);
    assert_eq!(message.timestamp().to_millis(), Some(1_700_000_000_130));
}
