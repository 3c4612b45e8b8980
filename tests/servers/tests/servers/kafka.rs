//! Kafka clusters.

use std::{net::TcpListener, time::Duration};

use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    metadata::Metadata,
    producer::{FutureProducer, FutureRecord},
};
use runmesh_servers::{Kafka, KafkaOptions, Sasl, Security, Tls};

use crate::processes::{eventually, nothing_is_left};

const TOPIC: &str = "lines";
const PATIENCE: Duration = Duration::from_secs(60);

fn client(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap());
    config
}

async fn make_topic(config: &ClientConfig, replicas: i32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(replicas));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    for made in admin.create_topics([&topic], &options).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("topic {topic}: {code}"))?;
    }
    Ok(())
}

async fn send(config: &ClientConfig, line: &str) -> anyhow::Result<()> {
    let producer: FutureProducer = config.clone().set("acks", "all").create()?;
    let record: FutureRecord<'_, (), str> = FutureRecord::to(TOPIC).payload(line);
    producer.send(record, PATIENCE).await.map_err(|(error, _)| error)?;
    Ok(())
}

/// What is in the topic, once that many lines are.
fn lines(config: &ClientConfig, count: usize) -> anyhow::Result<Vec<String>> {
    let consumer: BaseConsumer = config.clone().set("group.id", "none").create()?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(TOPIC, 0, Offset::Beginning)?;
    consumer.assign(&from)?;
    let mut lines = Vec::new();
    eventually("the lines of the topic", || {
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
            lines.push(String::from_utf8_lossy(record.payload().unwrap_or_default()).into_owned());
        }
        lines.len() >= count
    })?;
    Ok(lines)
}

fn metadata(config: &ClientConfig, patience: Duration) -> anyhow::Result<Metadata> {
    let consumer: BaseConsumer = config.create()?;
    Ok(consumer.fetch_metadata(None, patience)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_or_stopped_has_its_records_and_its_address_when_it_is_started_again()
-> anyhow::Result<()> {
    let mut kafka = Kafka::start(&KafkaOptions::default())?;
    let (config, folder) = (client(&kafka), kafka.node_folder(1));
    make_topic(&config, 1).await?;
    send(&config, "before").await?;
    let (bootstrap, pid) = (kafka.bootstrap(), kafka.pid(1)?);
    kafka.kill(1)?;
    assert!(kafka.pid(1).is_err() && kafka.kill(1).is_err() && kafka.pause(1).is_err());
    kafka.start_node(1)?;
    assert!(kafka.start_node(1).is_err(), "it runs already");
    assert_eq!(kafka.bootstrap(), bootstrap);
    assert_ne!(kafka.pid(1)?, pid);
    send(&config, "between").await?;
    kafka.stop(1)?;
    kafka.start_node(1)?;
    send(&config, "after").await?;
    assert_eq!(lines(&config, 3)?, ["before", "between", "after"]);
    drop(kafka);
    nothing_is_left(&folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_lose_one_and_take_it_back() -> anyhow::Result<()> {
    let mut kafka = Kafka::start(&KafkaOptions::three())?;
    let (config, folders) = (client(&kafka), [1, 2, 3].map(|node| kafka.node_folder(node)));
    ensure!(metadata(&config, PATIENCE)?.brokers().len() == 3);
    make_topic(&config, 3).await?;
    let in_sync = |kafka: &Kafka| {
        let found = metadata(&client(kafka), PATIENCE).unwrap();
        found.topics().iter().find(|topic| topic.name() == TOPIC).unwrap().partitions()[0].isr().len()
    };
    assert_eq!(in_sync(&kafka), 3);
    send(&config, "of three").await?;
    // The one that leads, so that another one has to take over.
    let leader = metadata(&config, PATIENCE)?.topics()[0].partitions()[0].leader();
    let leader = usize::try_from(leader)?;
    kafka.kill(leader)?;
    send(&config, "of two").await?;
    eventually("the cluster's notice of the loss", || in_sync(&kafka) == 2)?;
    kafka.start_node(leader)?;
    eventually("the node's return", || in_sync(&kafka) == 3)?;
    assert_eq!(lines(&config, 2)?, ["of three", "of two"]);
    assert!(kafka.kill(4).unwrap_err().to_string().contains("no node 4"));
    drop(kafka);
    folders.iter().try_for_each(|folder| nothing_is_left(folder))
}

#[test]
fn a_paused_node_holds_its_connections_and_says_nothing_until_it_is_resumed() -> anyhow::Result<()> {
    let kafka = Kafka::start(&KafkaOptions::default())?;
    let config = client(&kafka);
    metadata(&config, PATIENCE)?;
    kafka.pause(1)?;
    std::net::TcpStream::connect(kafka.listener(1))?;
    assert!(metadata(&config, Duration::from_millis(500)).is_err());
    kafka.resume(1)?;
    metadata(&config, PATIENCE)?;
    Ok(())
}

#[test]
fn clients_are_told_the_advertised_address_and_a_given_folder_stays() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Where a proxy would be.
    let proxy = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let options = KafkaOptions {
        advertised: vec![proxy],
        folder: Some(folder.path().to_owned()),
        ..KafkaOptions::default().set("num.partitions", 7)
    };
    let kafka = Kafka::start(&options)?;
    assert_eq!(kafka.bootstrap(), proxy.to_string());
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.listener(1).to_string());
    let found = metadata(&config, PATIENCE)?;
    let broker = found.brokers().first().context("a broker")?;
    assert_eq!(format!("{}:{}", broker.host(), broker.port()), proxy.to_string());
    let node = kafka.node_folder(1);
    assert!(node.starts_with(folder.path()));
    assert!(std::fs::read_to_string(node.join("server.properties"))?.contains("num.partitions=7"));
    drop(kafka);
    nothing_is_left(&node)?;
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
    Ok(())
}

#[test]
fn a_node_that_does_not_start_is_an_error_with_the_end_of_its_log() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = KafkaOptions {
        folder: Some(folder.path().to_owned()),
        ..KafkaOptions::default().set("log.retention.hours", "many")
    };
    let error = format!("{:#}", Kafka::start(&options).unwrap_err());
    assert!(error.contains("log.retention.hours"), "{error}");
    // This one the storage tool lets pass.
    let options = KafkaOptions {
        folder: options.folder,
        ..KafkaOptions::default().set("listeners", "CLIENTS://127.0.0.1:1,CONTROLLER://127.0.0.1:1")
    };
    let error = format!("{:#}", Kafka::start(&options).unwrap_err());
    assert!(error.contains("Kafka's node 1"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
    assert!(Kafka::start(&KafkaOptions { nodes: 2, ..KafkaOptions::default() }).is_err());
    Ok(())
}

/// An authority, and what it has signed for a server on the loopback address and for a client: certificate and key.
struct Certificates {
    authority: String,
    server: (String, String),
    client: (String, String),
}

fn certificates() -> anyhow::Result<Certificates> {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    // A name of its own: otherwise what it signs has the same, and looks as if it had signed itself.
    authority.distinguished_name.push(DnType::CommonName, "authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);
    let sign = |name: &str| {
        let key = KeyPair::generate()?;
        anyhow::Ok((CertificateParams::new([name.to_owned()])?.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    Ok(Certificates { authority: pem, server: sign("127.0.0.1")?, client: sign("client")? })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secured_cluster_serves_those_who_have_certificate_and_password() -> anyhow::Result<()> {
    let certificates = certificates()?;
    let (certificate, key) = certificates.server;
    let security = Security {
        tls: Some(Tls { certificate, key, client_authority: Some(certificates.authority.clone()) }),
        sasl: Some(Sasl {
            users: vec![("ada".to_owned(), "count".to_owned()), ("bob".to_owned(), "build".to_owned())],
        }),
    };
    let kafka = Kafka::start(&KafkaOptions { security, ..KafkaOptions::default() })?;
    let secured = |mechanism: &str, password: &str| {
        let mut config = client(&kafka);
        config.set("security.protocol", "sasl_ssl").set("sasl.mechanism", mechanism);
        config.set("sasl.username", "ada").set("sasl.password", password);
        config.set("ssl.ca.pem", &certificates.authority);
        config.set("ssl.certificate.pem", &certificates.client.0).set("ssl.key.pem", &certificates.client.1);
        config
    };
    make_topic(&secured("PLAIN", "count"), 1).await?;
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        send(&secured(mechanism, "count"), mechanism).await?;
        let refused = metadata(&secured(mechanism, "build"), Duration::from_secs(3));
        ensure!(refused.is_err(), "{mechanism} lets a wrong password in");
    }
    let mut nobody = secured("PLAIN", "count");
    nobody.remove("ssl.certificate.pem").remove("ssl.key.pem");
    ensure!(metadata(&nobody, Duration::from_secs(3)).is_err(), "no certificate");
    ensure!(metadata(&client(&kafka), Duration::from_secs(3)).is_err(), "no encryption");
    assert_eq!(lines(&secured("PLAIN", "count"), 3)?.len(), 3);
    Ok(())
}
