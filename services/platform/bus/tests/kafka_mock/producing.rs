//! Publishing while the cluster has its troubles.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Message as _,
    consumer::{BaseConsumer, Consumer as _},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use runmesh_bus::{
    Bus as _, BusError, KafkaBus, KafkaConfig, Record,
    conformance::{TOPIC, TOPIC_2, record, within},
};
use runmesh_events::Catalog;

use crate::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(30);

fn reader(cluster: &Cluster) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", &cluster.config().brokers)
        .set("group.id", "reader")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap()
}

/// The values of so many records of the topic.
fn values(cluster: &Cluster, count: usize) -> Vec<Vec<u8>> {
    let consumer = reader(cluster);
    consumer.subscribe(&[&Catalog::get().topic(TOPIC).unwrap().name]).unwrap();
    // It also ends without a record, when the group has something to say.
    let until = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    while found.len() < count && Instant::now() < until {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            found.push(message.unwrap().payload().unwrap().to_vec());
        }
    }
    found
}

/// What the broker refuses for the moment is sent again, in order and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transient_refusal_is_sent_again_in_order() {
    let cluster = Cluster::start();
    let bus = KafkaBus::open(cluster.config()).unwrap();
    cluster.tell(|cluster| {
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
        cluster.request_errors(RDKafkaApiKey::Produce, &[error, error]);
    });
    let results = bus.publish((1..=20).map(|sequence| record(TOPIC, "a", sequence)).collect()).await;
    let offsets: Vec<u64> = results.into_iter().map(|result| result.unwrap().offset).collect();
    assert_eq!(offsets, (0..20).collect::<Vec<_>>());
}

/// A producer that has lost its place in a partition's order can't go on; another takes its place, and what was refused is
/// an error that may be tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_can_not_go_on_is_replaced() {
    let cluster = Cluster::start();
    let bus = KafkaBus::open(cluster.config()).unwrap();
    bus.publish(vec![record(TOPIC, "a", 1)]).await.remove(0).unwrap();
    cluster.tell(|cluster| {
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
    });
    let refused = bus.publish(vec![record(TOPIC, "a", 2)]).await.remove(0);
    assert!(matches!(refused, Err(BusError::Unavailable(_))), "{refused:?}");
    let publish = async {
        while let Err(error) = bus.publish(vec![record(TOPIC, "a", 2)]).await.remove(0) {
            assert!(error.is_transient(), "{error}");
        }
    };
    within("another producer publishes it", publish).await;
}

/// A record of which no broker said that it has it is not taken for published because a later one was acknowledged. The cluster
/// has the second alone, as a leader has that is new to a partition: what it said of the first went with the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_acknowledgement_says_nothing_of_an_earlier_record() {
    let cluster = Cluster::start();
    let properties = [("batch.num.messages".to_owned(), "1".to_owned())].into();
    let bus = KafkaBus::open(KafkaConfig { properties, ..cluster.config() }).unwrap();
    let records: Vec<Record> = (1..=4).map(|sequence| record(TOPIC, "a", sequence)).collect();
    bus.publish(vec![records[0].clone()]).await.remove(0).unwrap();
    cluster.tell(|cluster| {
        cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT]);
        // Long enough for all three to be on their way.
        cluster.broker_round_trip_time(1, Duration::from_millis(500)).unwrap();
    });
    let results = bus.publish(records[1..].to_vec()).await;
    cluster.tell(|cluster| cluster.broker_round_trip_time(1, Duration::ZERO).unwrap());
    for (record, result) in records[1..].iter().zip(results) {
        let refused = result.unwrap_err();
        assert!(refused.is_transient(), "{refused}");
        bus.publish(vec![record.clone()]).await.remove(0).unwrap();
    }
    let number = |value: Vec<u8>| records.iter().position(|record| record.value == value).unwrap() + 1;
    let found: Vec<usize> = values(&cluster, 6).into_iter().map(number).collect();
    assert_eq!(found, [1, 3, 4, 2, 3, 4]);
}

/// Records of a type that is mapped go to the other topic, and those of other types to their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mapped_types_go_to_the_other_topic() {
    let cluster = Cluster::start();
    cluster.tell(|cluster| cluster.create_topic("copies", 1, 1).unwrap());
    let bus = KafkaBus::open(cluster.config()).unwrap();
    let map = [(TOPIC, "copies".to_owned())].into();
    let other = [(TOPIC_2, "copies".to_owned())].into();
    for (sequence, map) in [(1, &map), (2, &other), (3, &map)] {
        bus.publish_mapped(vec![record(TOPIC, "a", sequence)], map).await.remove(0).unwrap();
    }
    let consumer = reader(&cluster);
    let watermarks = |topic: &str, partition| consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap().1;
    assert_eq!(watermarks("copies", 0), 2);
    let topic = Catalog::get().topic(TOPIC).unwrap();
    assert_eq!((0..topic.partitions).map(|partition| watermarks(&topic.name, partition)).sum::<i64>(), 1);
}
