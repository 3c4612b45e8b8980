//! The whole mesh on the Kafka bus. The cluster is librdkafka's mock, which speaks Kafka's protocol on a socket but keeps
//! records in memory alone and can't make topics by itself; real brokers are a later issue's.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use prost::Message as _;
use rdkafka::{
    ClientConfig, Message as _,
    consumer::{BaseConsumer, Consumer as _},
    message::Headers as _,
    mocking::MockCluster,
};
use runmesh_events::Catalog;
use runmesh_mesh_tests::{Mesh, Options, PATIENCE, bash, python};
use runmesh_proto::event::Event;

/// A cluster of one broker with every topic of the catalog. It ends when it is dropped.
struct Cluster {
    brokers: String,
    end: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cluster {
    fn start() -> anyhow::Result<Self> {
        let (tell, brokers) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        // Its handle can't leave the thread that made it.
        let thread = thread::spawn(move || {
            let made = MockCluster::new(1).and_then(|cluster| {
                for topic in Catalog::get().topics() {
                    cluster.create_topic(&topic.name, topic.partitions, 1)?;
                }
                Ok(cluster)
            });
            // The cluster lives as long as this thread keeps it.
            let (_cluster, told) = match made {
                Ok(cluster) => {
                    let brokers = cluster.bootstrap_servers();
                    (Some(cluster), Ok(brokers))
                }
                Err(error) => (None, Err(error)),
            };
            tell.send(told).ok();
            ended.recv().ok();
        });
        let brokers = brokers.recv_timeout(PATIENCE).context("the mock cluster did not start")??;
        Ok(Self { brokers, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A record as a consumer without Runmesh's code sees it.
struct Foreign {
    key: String,
    headers: Vec<(String, String)>,
    value: Vec<u8>,
}

/// The first record of a topic.
fn foreign(brokers: &str, topic: &str) -> anyhow::Result<Foreign> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "foreign")
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[topic])?;
    let deadline = Instant::now() + PATIENCE;
    let record = loop {
        // It also comes back without a record, to tell that there is nothing yet.
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            break record?;
        }
        ensure!(Instant::now() < deadline, "no record");
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = record.headers().context("no headers")?;
    Ok(Foreign {
        key: text(record.key().context("no key")?),
        headers: headers.iter().map(|one| (one.key.to_owned(), text(one.value.unwrap_or_default()))).collect(),
        value: record.payload().context("no value")?.to_vec(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_on_the_kafka_bus_runs_scripts_and_foreign_consumers_understand_its_records() -> anyhow::Result<()> {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await??;
    let bus = format!("bus.uri=kafka://{}", cluster.brokers);
    let mut mesh = Mesh::start_with(Options::set([bus.as_str()])).await?;
    let client = mesh.client().await?;
    let first = client.run(python("print('over Kafka')")).await?;
    ensure!(first.stdout()? == b"over Kafka\n", "another output");
    let id = first.complete()?.execution_id.clone();
    client.run(bash("exit 3")).await?;

    let brokers = cluster.brokers.clone();
    let Foreign { key, headers, value } =
        tokio::task::spawn_blocking(move || foreign(&brokers, "execution_completed")).await??;
    assert_eq!(key, id);
    let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(header("ce_specversion"), Some("1.0"));
    assert_eq!(header("ce_type"), Some("runmesh.event.v1.execution_completed"));
    assert_eq!(header("ce_subject"), Some(id.as_str()));
    assert_eq!(header("content-type"), Some("application/protobuf"));
    ensure!(header("traceparent").is_some(), "no traceparent");
    let event = Event::decode(value.as_slice())?;
    assert_eq!(header("ce_id"), Some(event.event_id.as_str()));

    mesh.ask_to_end()?;
    ensure!(mesh.ended(Duration::from_secs(30)).await?.success(), "it did not end in order");
    Ok(())
}
