//! Publishing while the cluster has its troubles.

use std::time::Duration;

use rdkafka::{mocking::MockCoordinator, types::RDKafkaRespErr};
use runmesh_bus::{
    Bus as _, BusError, KafkaBus, KafkaConfig,
    conformance::{TOPIC, record, within},
};

use crate::cluster::Cluster;

/// What the broker refuses for the moment is sent again, in order and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transient_refusal_is_sent_again_in_order() {
    let cluster = Cluster::start();
    let bus = KafkaBus::open(cluster.config()).unwrap();
    cluster.tell(|cluster| {
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
        cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[error, error]);
        cluster.coordinator(MockCoordinator::Group("unused".to_owned()), 1).unwrap();
    });
    let results = bus.publish((1..=20).map(|sequence| record(TOPIC, "a", sequence)).collect()).await;
    let offsets: Vec<u64> = results.into_iter().map(|result| result.unwrap().offset).collect();
    assert_eq!(offsets, (0..20).collect::<Vec<_>>());
}

/// Without a broker each record fails for the moment; with it again, all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_publishing_fails_for_the_moment() {
    let cluster = Cluster::start();
    let config = KafkaConfig { delivery_timeout: Duration::from_millis(500), ..cluster.config() };
    let bus = KafkaBus::open(config).unwrap();
    published(&bus, 1).await;
    cluster.tell(|cluster| cluster.broker_down(-1).unwrap());
    for result in bus.publish(vec![record(TOPIC, "a", 2), record(TOPIC, "a", 3)]).await {
        assert!(matches!(result, Err(BusError::Unavailable(_))), "{result:?}");
    }
    cluster.tell(|cluster| cluster.broker_up(-1).unwrap());
    published(&bus, 4).await;
}

/// Publishes a record as soon as the cluster takes it.
async fn published(bus: &KafkaBus, sequence: u64) {
    let publish = async {
        while let Err(error) = bus.publish(vec![record(TOPIC, "a", sequence)]).await.remove(0) {
            assert!(error.is_transient(), "{error}");
        }
    };
    within("a record is published", publish).await;
}

/// Settings are checked when the bus is opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_breaks_a_guarantee_is_refused() {
    let mut config = KafkaConfig::new("localhost:1");
    config.properties.insert("enable.auto.commit".to_owned(), "true".to_owned());
    assert!(matches!(KafkaBus::open(config), Err(BusError::Invalid(_))));
    let mut config = KafkaConfig::new("localhost:1");
    config.properties.insert("no.such.property".to_owned(), "1".to_owned());
    assert!(matches!(KafkaBus::open(config), Err(BusError::Invalid(text)) if text.contains("no.such.property")));
    assert!(matches!(KafkaBus::open(KafkaConfig::new(" ")), Err(BusError::Invalid(_))));
}
