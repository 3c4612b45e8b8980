//! Comparing the cluster's topics with the catalog. (Making them needs a real cluster: the mock one has no such call.)

use std::time::Duration;

use runmesh_bus::{Bus as _, BusError, KafkaBus, KafkaConfig, TopicDrift, TopicReport};
use runmesh_events::{Catalog, TopicSpec};

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_exist_are_left_alone() {
    let topics = &Catalog::get().topics()[..4];
    let cluster = Cluster::with_topics(topics.to_vec());
    let bus = KafkaBus::open(cluster.config()).unwrap();
    assert_eq!(bus.check_topics(topics).await.unwrap(), TopicReport::default());
    assert_eq!(bus.ensure_topics(topics).await.unwrap(), TopicReport::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_small_and_different_topics_are_reported() {
    let topics: Vec<TopicSpec> = Catalog::get().topics()[..4].to_vec();
    let mut found = topics[1..].to_vec();
    found[0].partitions -= 1;
    found[1].partitions += 2;
    let cluster = Cluster::with_topics(found);
    let bus = KafkaBus::open(KafkaConfig { replication_factor: Some(1), ..cluster.config() }).unwrap();
    let report = bus.check_topics(&topics).await.unwrap();
    assert_eq!(report.created, [topics[0].name.clone()]);
    assert_eq!(report.grown, [topics[1].name.clone()]);
    let drift = TopicDrift {
        topic: topics[2].name.clone(),
        setting: "partitions",
        wanted: topics[2].partitions.to_string(),
        found: (topics[2].partitions + 2).to_string(),
    };
    assert_eq!(report.drift, [drift]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_can_not_be_reached_is_a_transient_error() {
    let cluster = Cluster::start();
    cluster.tell(|cluster| cluster.broker_down(-1).unwrap());
    let bus = KafkaBus::open(KafkaConfig { request_timeout: Duration::from_millis(300), ..cluster.config() }).unwrap();
    let result = bus.ensure_topics(Catalog::get().topics()).await;
    assert!(matches!(result, Err(BusError::Unavailable(_))), "{result:?}");
}
