//! What consumers that know nothing of Runmesh find.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
};

use bytes::Bytes;
use prost::Message as _;
use runmesh_bus::{
    Bus as _, KafkaBus, Record,
    conformance::{TOPIC, sample},
};
use runmesh_events::{Event, to_timestamp};

use crate::brokers::{Clean, blocking};

/// What a tool printed, which has to end well.
fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn headers(text: &str, between: char) -> BTreeMap<&str, &str> {
    text.trim().split(',').filter_map(|header| header.split_once(between)).collect()
}

/// kcat: key, headers and value, each in the form that it has on the topic.
fn kcat(brokers: &str, format: &str) -> Vec<u8> {
    let mut kcat = Command::new("kcat");
    kcat.args(["-C", "-q", "-e", "-o", "beginning", "-t", "execution_started", "-b", brokers, "-f", format]);
    output(&mut kcat)
}

/// A record is a CloudEvent in binary mode, with the aggregate as its key, and a value that decodes by the published
/// proto: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_a_cloud_event_in_binary_mode() {
    let broker = Clean::broker().await;
    let mut event = sample(TOPIC, "aggregate-1", 7);
    event.occurred_at = Some(to_timestamp(runmesh_bus::conformance::sample_time()));
    let time = event.occurred_at.as_ref().unwrap().to_string();
    let record = Record::of(&event).unwrap();
    let bus = KafkaBus::open(broker.config()).unwrap();
    bus.publish(vec![record.clone()]).await.remove(0).unwrap();
    let expected = BTreeMap::from([
        ("ce_specversion", "1.0"),
        ("ce_id", event.event_id.as_str()),
        ("ce_source", "/runmesh/conformance"),
        ("ce_type", "runmesh.event.v1.execution_started"),
        ("ce_subject", "aggregate-1"),
        ("ce_time", time.as_str()),
        ("ce_sequence", "7"),
        ("content-type", "application/protobuf"),
        ("traceparent", event.traceparent.as_str()),
    ]);
    let millis = record.timestamp.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis().to_string();

    let brokers = broker.bootstrap();
    let (line, value) = blocking(move || (kcat(&brokers, "%T|%k|%h"), kcat(&brokers, "%s"))).await;
    let line = String::from_utf8(line).unwrap();
    let [timestamp, key, of_line] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
    assert_eq!((timestamp, key), (millis.as_str(), "aggregate-1"));
    assert_eq!(headers(of_line, '='), expected);
    assert_eq!(Event::decode(Bytes::from(value)).unwrap(), event);
}
