//! Making topics, and comparing those that exist with the catalog.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
};
use runmesh_bus::{Bus as _, BusError, KafkaBus, TopicDrift, TopicReport, conformance::until, kafka::KafkaConfig};
use runmesh_events::{Catalog, TopicSpec};

use crate::brokers::Clean;

fn admin(broker: &Clean) -> (AdminClient<DefaultClientContext>, AdminOptions) {
    let admin = ClientConfig::new().set("bootstrap.servers", broker.bootstrap()).create().unwrap();
    (admin, AdminOptions::new().request_timeout(Some(Duration::from_secs(30))))
}

fn names(topics: &[TopicSpec]) -> Vec<String> {
    topics.iter().map(|topic| topic.name.clone()).collect()
}

/// The whole catalog is made, with its partitions and settings; a second time there is nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_as_the_catalog_has_them() {
    let broker = Clean::empty().await;
    let topics = Catalog::get().topics();
    let config = KafkaConfig { replication_factor: Some(1), min_insync_replicas: Some(1), ..broker.config() };
    let bus = KafkaBus::open(config.clone()).unwrap();
    let missing = TopicReport { created: names(topics), ..TopicReport::default() };
    assert_eq!(bus.check_topics(topics).await.unwrap(), missing);
    assert_eq!(bus.ensure_topics(topics).await.unwrap(), missing);
    assert_eq!(bus.check_topics(topics).await.unwrap(), TopicReport::default());
    assert_eq!(bus.ensure_topics(topics).await.unwrap(), TopicReport::default());

    let (admin, options) = admin(&broker);
    let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(30)).unwrap();
    for topic in topics {
        let found = metadata.topics().iter().find(|found| found.name() == topic.name).unwrap();
        assert_eq!(i32::try_from(found.partitions().len()).unwrap(), topic.partitions, "{}", topic.name);
    }
    let specifiers: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let described = admin.describe_configs(&specifiers, &options).await.unwrap();
    for (topic, described) in topics.iter().zip(described) {
        let described = described.unwrap();
        let value = |setting| described.get(setting).unwrap().value.clone().unwrap();
        assert_eq!(value("retention.ms"), topic.retention.as_millis().to_string(), "{}", topic.name);
        assert_eq!(value("max.message.bytes"), (config.max_record_bytes + (64 << 10)).to_string());
        assert_eq!((value("min.insync.replicas"), value("cleanup.policy")), ("1".to_owned(), "delete".to_owned()));
    }
}

/// Processes that start together make the topics together, and grow them together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_make_the_topics_at_once_do_each_other_no_harm() {
    let broker = Clean::empty().await;
    let topics = Catalog::get().topics();
    let small: Vec<TopicSpec> = topics.iter().cloned().map(|topic| TopicSpec { partitions: 1, ..topic }).collect();
    for wanted in [small.as_slice(), topics] {
        let processes: Vec<_> = (0..4).map(|_| KafkaBus::open(broker.config()).unwrap()).collect();
        let reports = futures::future::join_all(processes.iter().map(|bus| bus.ensure_topics(wanted))).await;
        for report in reports {
            assert!(report.unwrap().drift.is_empty());
        }
        assert_eq!(processes[0].check_topics(wanted).await.unwrap(), TopicReport::default());
    }
}

/// Too few partitions are made up for, too many are left and reported; so is every setting that is not the catalog's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_grow_and_what_differs_otherwise_is_reported() {
    let broker = Clean::empty().await;
    let topics = &Catalog::get().topics()[..3];
    let (admin, options) = admin(&broker);
    let found = [topics[0].partitions - 1, topics[1].partitions + 2, topics[2].partitions];
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(found)
        .map(|(topic, partitions)| NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(1)))
        .collect();
    for result in admin.create_topics(&new, &options).await.unwrap() {
        result.unwrap();
    }
    let config = KafkaConfig { replication_factor: Some(1), min_insync_replicas: Some(1), ..broker.config() };
    let (retention, bytes) =
        (topics[0].retention.as_millis().to_string(), (config.max_record_bytes + (64 << 10)).to_string());
    let set = |topic: usize, settings: [(&'static str, &'static str); 4]| {
        let right = [
            ("retention.ms", &*retention),
            ("max.message.bytes", &*bytes),
            ("min.insync.replicas", "1"),
            ("cleanup.policy", "delete"),
        ];
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(&topics[topic].name));
        for (name, value) in right {
            let wrong = settings.iter().find(|(setting, _)| *setting == name).map(|(_, value)| *value);
            alter = alter.set(name, wrong.unwrap_or(value));
        }
        alter
    };
    let wrong = [
        ("retention.ms", "1000"),
        ("max.message.bytes", "2000"),
        ("min.insync.replicas", "2"),
        ("cleanup.policy", "compact"),
    ];
    // The retention of the first stands for all three: those of the catalog differ.
    let topics: Vec<TopicSpec> =
        topics.iter().cloned().map(|topic| TopicSpec { retention: topics[0].retention, ..topic }).collect();
    let none = [("", ""); 4];
    for result in admin.alter_configs(&[set(0, none), set(1, none), set(2, wrong)], &options).await.unwrap() {
        result.unwrap();
    }

    let bus = KafkaBus::open(config.clone()).unwrap();
    until("the broker tells of them", async || bus.check_topics(&topics).await.unwrap().drift.len() == 5).await;
    let drift = |topic: usize, setting, wanted: &str, found: &str| TopicDrift {
        topic: topics[topic].name.clone(),
        setting,
        wanted: wanted.to_owned(),
        found: found.to_owned(),
    };
    let expected = TopicReport {
        created: Vec::new(),
        grown: vec![topics[0].name.clone()],
        drift: vec![
            drift(1, "partitions", &topics[1].partitions.to_string(), &(topics[1].partitions + 2).to_string()),
            drift(2, "retention.ms", &retention, "1000"),
            drift(2, "max.message.bytes", &bytes, "2000"),
            drift(2, "cleanup.policy", "delete", "compact"),
            drift(2, "min.insync.replicas", "1", "2"),
        ],
    };
    assert_eq!(bus.check_topics(&topics).await.unwrap(), expected);
    assert_eq!(bus.ensure_topics(&topics).await.unwrap(), expected);
    assert_eq!(bus.check_topics(&topics).await.unwrap(), TopicReport { grown: Vec::new(), ..expected.clone() });

    let replicated = KafkaBus::open(KafkaConfig { replication_factor: Some(3), ..config }).unwrap();
    let report = replicated.check_topics(&topics).await.unwrap();
    let copies: Vec<_> = report.drift.iter().filter(|drift| drift.setting == "replication.factor").collect();
    assert_eq!(copies.len(), 3, "{report:?}");
    assert!(copies.iter().all(|drift| (&*drift.wanted, &*drift.found) == ("3", "1")), "{copies:?}");
}

/// What the cluster can't do is an error that says so, and that stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_copies_than_brokers_are_refused_for_good() {
    let broker = Clean::empty().await;
    let bus = KafkaBus::open(KafkaConfig { replication_factor: Some(3), ..broker.config() }).unwrap();
    let topics = &Catalog::get().topics()[..1];
    match bus.ensure_topics(topics).await {
        Err(error @ BusError::Backend(_)) => {
            let text = error.to_string();
            assert!(text.contains(&topics[0].name) && text.contains("replication"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_can_not_be_reached_is_a_transient_error() {
    // A port on which nobody listens, and that nobody gets meanwhile.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = KafkaConfig { request_timeout: Duration::from_secs(5), ..KafkaConfig::new(&address) };
    let bus = KafkaBus::open(config).unwrap();
    match bus.ensure_topics(Catalog::get().topics()).await {
        Err(BusError::Unavailable(text)) => assert!(text.contains(&address) && text.contains("refused"), "{text}"),
        other => panic!("{other:?}"),
    }
}
