//! Brokers that are lost.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use runmesh_bus::{
    Bus as _, BusError, KafkaBus,
    conformance::{Running, TOPIC, TOPIC_2, record, until, within},
    kafka::{GroupProtocol, KafkaConfig},
};
use runmesh_events::GroupName;
use runmesh_servers::{Kafka, KafkaOptions};

use super::course::{Course, group_of};
use crate::brokers::{blocking, private, specs};

/// The members of each group.
const NAMES: [&str; 2] = ["one", "two"];

/// A cluster that a test does something to while it waits.
#[derive(Clone)]
struct Cluster(Arc<Mutex<Kafka>>);

impl Cluster {
    async fn start(options: KafkaOptions) -> Self {
        Self(Arc::new(Mutex::new(private(options).await)))
    }

    fn bootstrap(&self) -> String {
        self.0.lock().unwrap().bootstrap()
    }

    async fn tell<T: Send + 'static>(&self, what: impl FnOnce(&mut Kafka) -> T + Send + 'static) -> T {
        let kafka = Arc::clone(&self.0);
        blocking(move || what(&mut kafka.lock().unwrap())).await
    }
}

/// The only broker is killed in the middle of everything, and comes back after some seconds. Nobody who publishes sees an
/// error unless he is in a hurry; nothing is lost, doubled or committed too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_is_killed_and_comes_back_costs_time_only() {
    let cluster = Cluster::start(KafkaOptions::default()).await;
    let config = KafkaConfig::new(cluster.bootstrap());
    let mut course = Course::start(config.clone()).await;
    let members = course.members(&NAMES).await;
    course.progress(&NAMES, 100).await;
    let hasty = KafkaBus::open(KafkaConfig { delivery_timeout: Duration::from_millis(500), ..config }).unwrap();
    cluster.tell(|kafka| kafka.kill(1).unwrap()).await;
    for result in hasty.publish(vec![record(TOPIC_2, "hasty", 1), record(TOPIC_2, "hasty", 2)]).await {
        assert!(matches!(result, Err(BusError::Unavailable(_))), "{result:?}");
    }
    // The outage, which is longer than what the members have in hand.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.tell(|kafka| kafka.start_node(1).unwrap()).await;
    course.progress(&NAMES, 100).await;
    course.finish().await;
    stop(members).await;
}

/// One of three brokers is killed, the one that has to do with a group. The others go on at once, with the publishing and
/// the handling, and nobody sees an error; when it is back, it is part of it all again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_three_brokers_is_not_missed() {
    let cluster = Cluster::start(KafkaOptions::three()).await;
    let config = KafkaConfig {
        replication_factor: Some(3),
        min_insync_replicas: Some(2),
        ..KafkaConfig::new(cluster.bootstrap())
    };
    let mut course = Course::start(config).await;
    let members = course.members(&NAMES).await;
    course.progress(&NAMES, 100).await;
    let victim = coordinator(cluster.bootstrap(), group_of(GroupProtocol::Classic)).await;
    cluster.tell(move |kafka| kafka.kill(victim).unwrap()).await;
    // Of each member's partitions the killed broker led some.
    course.progress(&NAMES, 500).await;
    cluster.tell(move |kafka| kafka.start_node(victim).unwrap()).await;
    until_replicated(cluster.bootstrap()).await;
    course.progress(&NAMES, 100).await;
    course.finish().await;
    stop(members).await;
}

async fn stop(members: Vec<Running>) {
    for member in members {
        member.stop().await;
    }
}

fn client(bootstrap: String) -> Arc<BaseConsumer> {
    Arc::new(ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap())
}

/// The broker that leads the partition in which the group's offsets are: that of the hash of its name, as Java has it.
async fn coordinator(bootstrap: String, group: GroupName) -> usize {
    let hash = group.as_str().bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    let client = client(bootstrap);
    let metadata = blocking(move || client.fetch_metadata(None, Duration::from_secs(30))).await.unwrap();
    let offsets = metadata.topics().iter().find(|topic| topic.name() == "__consumer_offsets").unwrap();
    let partitions = i32::try_from(offsets.partitions().len()).unwrap();
    let own = offsets.partitions().iter().find(|partition| partition.id() == (hash & i32::MAX) % partitions);
    usize::try_from(own.unwrap().leader()).unwrap()
}

/// Waits until every partition has all its copies again, without which the next loss would be one too many.
async fn until_replicated(bootstrap: String) {
    let client = client(bootstrap);
    until("all copies are in step", async || {
        let client = Arc::clone(&client);
        let metadata = blocking(move || client.fetch_metadata(None, Duration::from_secs(5))).await;
        metadata.is_ok_and(|metadata| {
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            partitions.all(|partition| partition.isr().len() == 3)
        })
    })
    .await;
}

/// A broker whose disk was put back to an earlier state knows nothing of what the producer has sent since. The producer
/// can't go on, and another takes its place; what was acknowledged and is gone was lost by the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_producer_that_the_broker_has_forgotten_is_replaced() {
    let cluster = Cluster::start(KafkaOptions::default()).await;
    let bus = KafkaBus::open(KafkaConfig::new(cluster.bootstrap())).unwrap();
    within("the topics are made", bus.ensure_topics(&specs())).await.unwrap();
    let publish = async |count: u64| {
        let mut errors = 0;
        for sequence in 1..=count {
            while let Err(error) = bus.publish(vec![record(TOPIC, "a", sequence)]).await.remove(0) {
                assert!(error.is_transient(), "{error}");
                errors += 1;
            }
        }
        errors
    };
    assert_eq!(publish(10).await, 0);
    let folder = cluster.tell(|kafka| {
        kafka.stop(1).unwrap();
        let folder = kafka.node_folder(1);
        copy(&folder.join("data"), &folder.join("earlier"));
        kafka.start_node(1).unwrap();
        folder
    });
    let folder = folder.await;
    assert_eq!(publish(10).await, 0);
    cluster
        .tell(move |kafka| {
            kafka.kill(1).unwrap();
            fs::remove_dir_all(folder.join("data")).unwrap();
            fs::rename(folder.join("earlier"), folder.join("data")).unwrap();
            kafka.start_node(1).unwrap();
        })
        .await;
    let errors = within("it is published again", publish(10)).await;
    assert!(errors > 0, "the producer goes on as if nothing had happened");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
