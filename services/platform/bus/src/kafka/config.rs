//! How the bus reaches its cluster.

mod security;

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::ClientConfig;
use runmesh_events::GroupName;
use serde::{Deserialize, Serialize};

use crate::BusError;
pub use security::{Sasl, SaslMechanism, Tls};

/// What a record may take in a batch beside its key, headers and value.
const OVERHEAD: usize = 64 << 10;

/// How much of a topic a member holds in memory before it hands it on, in KiB.
const PREFETCH_KIB: usize = 16 << 10;

/// The shortest session that a member may have.
const SHORTEST_SESSION: Duration = Duration::from_secs(1);

/// The longest name that a static member may have. The brokers take 249 characters.
const LONGEST_NAME: usize = 249;

/// Properties on which the bus's guarantees rest, or that have a setting of their own.
const RESERVED: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "compression.codec",
    "compression.type",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "heartbeat.interval.ms",
    "linger.ms",
    "message.max.bytes",
    "message.timeout.ms",
    "partition.assignment.strategy",
    "partitioner",
    "queue.buffering.max.ms",
    "request.required.acks",
    "session.timeout.ms",
    "transactional.id",
];

/// Who assigns partitions to the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// One of the members, cooperatively. Every broker can do it.
    #[default]
    Classic,
    /// The brokers (KIP-848), from Apache Kafka 4.0 on.
    Consumer,
}

/// How the bus reaches its cluster, and what it asks of it.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// The brokers to begin with: `host:port`, separated by commas.
    pub brokers: String,
    /// The name under which the brokers know this process.
    pub client_id: String,
    /// Encrypts the connections. `None`: they are not encrypted.
    pub tls: Option<Tls>,
    /// How this process says who it is. `None`: it does not, unless by a certificate.
    pub sasl: Option<Sasl>,
    /// How many brokers keep each topic that is made. `None`: the cluster's default.
    pub replication_factor: Option<u16>,
    /// How many of them have to have a record before it is durable, for topics that are made. `None`: the cluster's
    /// default.
    pub min_insync_replicas: Option<u16>,
    /// The largest record that is published: key, headers and value together, in bytes. Topics are made so that they take
    /// it.
    pub max_record_bytes: usize,
    /// How long a record waits for the cluster before it fails. Until then it is sent again without ever being on its
    /// topic twice; who publishes it again after a failure has no such promise.
    pub delivery_timeout: Duration,
    /// How long a record waits for others to travel with.
    pub linger: Duration,
    /// How long a broker may wait for new records before it answers a reader.
    pub fetch_wait: Duration,
    /// How long calls about topics and offsets wait for an answer.
    pub request_timeout: Duration,
    /// Who assigns partitions to the members of a group.
    pub group_protocol: GroupProtocol,
    /// How long a group believes in a member without a sign of life, from 1 s on. With [`GroupProtocol::Consumer`] the
    /// brokers decide (`group.consumer.session.timeout.ms`), and this must not be longer.
    pub session_timeout: Duration,
    /// The name, unique in the mesh, under which this process finds its partitions again after a restart: until its
    /// session has run out, no other member gets them. `None`: they move whenever it leaves.
    pub static_member: Option<String>,
    /// How long a partition that moves to another member waits for the records in hand.
    pub revoke_patience: Duration,
    /// Further properties of librdkafka. Those on which the bus's guarantees rest are refused.
    pub properties: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// The defaults for these brokers: the cluster's replication, records of up to 16 MiB.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            client_id: "runmesh".to_owned(),
            tls: None,
            sasl: None,
            replication_factor: None,
            min_insync_replicas: None,
            max_record_bytes: 16 << 20,
            delivery_timeout: Duration::from_secs(120),
            linger: Duration::from_millis(1),
            fetch_wait: Duration::from_millis(100),
            request_timeout: Duration::from_secs(10),
            group_protocol: GroupProtocol::default(),
            session_timeout: Duration::from_secs(10),
            static_member: None,
            revoke_patience: Duration::from_secs(25),
            properties: BTreeMap::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), BusError> {
        let refuse = |text: String| Err(BusError::Invalid(format!("kafka: {text}")));
        if self.brokers.trim().is_empty() {
            return refuse("no brokers are given".to_owned());
        }
        if let Some(name) = self.properties.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return refuse(format!("the property {name} can't be set: the bus relies on it"));
        }
        if let Some(name) = security::properties(self).keys().find(|name| self.properties.contains_key(**name)) {
            return refuse(format!("the property {name} is set by tls or sasl too"));
        }
        if let (Some(copies), Some(insync)) = (self.replication_factor, self.min_insync_replicas)
            && insync > copies
        {
            return refuse(format!("min_insync_replicas, {insync}, is more than replication_factor, {copies}"));
        }
        for (name, value) in
            [("replication_factor", self.replication_factor), ("min_insync_replicas", self.min_insync_replicas)]
        {
            if value == Some(0) {
                return refuse(format!("{name} is 0"));
            }
        }
        if self.session_timeout < SHORTEST_SESSION {
            return refuse(format!("session_timeout, {:?}, is less than 1s", self.session_timeout));
        }
        if let Some(name) = &self.static_member {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(allowed) {
                let rule = "up to 249 letters, digits, dots, underscores and hyphens";
                return refuse(format!("static_member: {name:?} can't be a member's name, which has {rule}"));
            }
        }
        security::check(self)
    }

    /// The largest batch, and so the largest record with what surrounds it.
    pub(super) fn max_batch_bytes(&self) -> usize {
        self.max_record_bytes.saturating_add(OVERHEAD)
    }

    /// How long this process may stand still before it has to doubt that it is still a member of its groups. The last
    /// heartbeat before that may be a third of a session old.
    pub(super) fn stand_still(&self) -> Duration {
        self.session_timeout / 2
    }

    /// What every client of the cluster has in common.
    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("message.max.bytes", self.max_batch_bytes().to_string())
            .set("topic.metadata.refresh.interval.ms", "60000")
            // A broker that comes back is found again soon.
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.keepalive.enable", "true");
        for (name, value) in security::properties(self) {
            client.set(name, value);
        }
        self.with_properties(client)
    }

    fn with_properties(&self, mut client: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            // What Java clients do, so that theirs and ours put a key into the same partition.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", millis(self.linger))
            .set("message.timeout.ms", millis(self.delivery_timeout.max(Duration::from_millis(1))))
            .set("queue.buffering.max.kbytes", "262144");
        self.with_properties(client)
    }

    pub(super) fn member(&self, group: GroupName) -> ClientConfig {
        let mut client = self.client();
        client
            .set("group.id", group.as_str())
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("fetch.wait.max.ms", millis(self.fetch_wait))
            .set("queued.min.messages", "4096")
            .set("queued.max.messages.kbytes", PREFETCH_KIB.max(self.max_batch_bytes().div_ceil(1024)).to_string())
            .set("check.crcs", "true");
        match self.group_protocol {
            GroupProtocol::Classic => client
                .set("group.protocol", "classic")
                .set("partition.assignment.strategy", "cooperative-sticky")
                .set("session.timeout.ms", millis(self.session_timeout))
                .set("heartbeat.interval.ms", millis(self.session_timeout / 3)),
            // The rest is the brokers' to decide, and the client refuses to be told.
            GroupProtocol::Consumer => client.set("group.protocol", "consumer"),
        };
        if let Some(name) = &self.static_member {
            client.set("group.instance.id", name);
        }
        self.with_properties(client)
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of properties may be secrets.
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("tls", &self.tls)
            .field("sasl", &self.sasl)
            .field("replication_factor", &self.replication_factor)
            .field("min_insync_replicas", &self.min_insync_replicas)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("linger", &self.linger)
            .field("fetch_wait", &self.fetch_wait)
            .field("request_timeout", &self.request_timeout)
            .field("group_protocol", &self.group_protocol)
            .field("session_timeout", &self.session_timeout)
            .field("static_member", &self.static_member)
            .field("revoke_patience", &self.revoke_patience)
            .field("properties", &properties)
            .finish()
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut KafkaConfig)) -> String {
        let mut config = KafkaConfig::new("localhost:9092");
        assert!(config.check().is_ok());
        change(&mut config);
        match config.check() {
            Err(BusError::Invalid(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_guarantees_rest_on_can_not_be_set_and_secrets_are_not_shown() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.properties.insert("sasl.password".to_owned(), "hush".to_owned());
        assert!(config.check().is_ok());
        assert!(!format!("{config:?}").contains("hush"));
        for name in ["acks", "session.timeout.ms", "group.instance.id"] {
            let text = refusal(|config| drop(config.properties.insert(name.to_owned(), "0".to_owned())));
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn values_that_can_not_work_are_refused_by_name() {
        assert!(refusal(|config| config.brokers = " ".to_owned()).contains("brokers"));
        assert!(refusal(|config| config.replication_factor = Some(0)).contains("replication_factor"));
        assert!(refusal(|config| config.session_timeout = Duration::ZERO).contains("session_timeout"));
        let text = refusal(|config| {
            config.replication_factor = Some(1);
            config.min_insync_replicas = Some(2);
        });
        assert!(text.contains("min_insync_replicas"), "{text}");
        for name in ["", "a/b", &"x".repeat(250)] {
            let text = refusal(|config| config.static_member = Some(name.to_owned()));
            assert!(text.contains("static_member"), "{text}");
        }
    }

    #[test]
    fn both_group_protocols_are_settings_that_the_client_takes() {
        for group_protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
            let static_member = Some("node-1".to_owned());
            let config = KafkaConfig { group_protocol, static_member, ..KafkaConfig::new("localhost:9092") };
            let made: Result<rdkafka::consumer::BaseConsumer, _> = config.member(GroupName::new("group")).create();
            assert!(made.is_ok(), "{group_protocol:?}: {:?}", made.err());
        }
    }

    #[test]
    fn a_property_wins_over_what_the_bus_would_choose() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.properties.insert("fetch.wait.max.ms".to_owned(), "7".to_owned());
        assert_eq!(config.member(GroupName::new("group")).get("fetch.wait.max.ms"), Some("7"));
    }
}
