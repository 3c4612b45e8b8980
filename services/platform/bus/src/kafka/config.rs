//! How the bus reaches its cluster.

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::ClientConfig;
use runmesh_events::GroupName;

use crate::BusError;

/// What a record may take in a batch beside its key, headers and value.
const OVERHEAD: usize = 64 << 10;

/// How much of a topic a member holds in memory before it hands it on, in KiB.
const PREFETCH_KIB: usize = 16 << 10;

/// Properties on which the bus's guarantees rest.
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
    "linger.ms",
    "message.max.bytes",
    "message.timeout.ms",
    "partition.assignment.strategy",
    "partitioner",
    "queue.buffering.max.ms",
    "request.required.acks",
    "transactional.id",
];

/// How the bus reaches its cluster, and what it asks of it.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// The brokers to begin with: `host:port`, separated by commas.
    pub brokers: String,
    /// The name under which the brokers know this process.
    pub client_id: String,
    /// How many brokers keep each topic that is made. `None`: the cluster's default.
    pub replication_factor: Option<u16>,
    /// How many of them have to have a record before it is durable, for topics that are made. `None`: the cluster's
    /// default.
    pub min_insync_replicas: Option<u16>,
    /// The largest record that is published: key, headers and value together, in bytes. Topics are made so that they take
    /// it.
    pub max_record_bytes: usize,
    /// How long a record waits for the cluster before it fails.
    pub delivery_timeout: Duration,
    /// How long a record waits for others to travel with.
    pub linger: Duration,
    /// How long a broker may wait for new records before it answers a reader.
    pub fetch_wait: Duration,
    /// How long calls about topics and offsets wait for an answer.
    pub request_timeout: Duration,
    /// How long a partition that moves to another member waits for the records in hand.
    pub revoke_patience: Duration,
    /// Further properties of librdkafka, such as those of TLS and SASL. Those on which the bus's guarantees rest are
    /// refused.
    pub properties: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// The defaults for these brokers: the cluster's replication, records of up to 16 MiB.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            client_id: "runmesh".to_owned(),
            replication_factor: None,
            min_insync_replicas: None,
            max_record_bytes: 16 << 20,
            delivery_timeout: Duration::from_secs(30),
            linger: Duration::from_millis(1),
            fetch_wait: Duration::from_millis(10),
            request_timeout: Duration::from_secs(10),
            revoke_patience: Duration::from_secs(25),
            properties: BTreeMap::new(),
        }
    }

    pub(super) fn check(&self) -> Result<(), BusError> {
        if self.brokers.trim().is_empty() {
            return Err(BusError::Invalid("kafka: no brokers are given".to_owned()));
        }
        if let Some(name) = self.properties.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(BusError::Invalid(format!("kafka: the property {name} can't be set: the bus relies on it")));
        }
        Ok(())
    }

    /// The largest batch, and so the largest record with what surrounds it.
    pub(super) fn max_batch_bytes(&self) -> usize {
        self.max_record_bytes.saturating_add(OVERHEAD)
    }

    /// What every client of the cluster has in common.
    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("message.max.bytes", self.max_batch_bytes().to_string())
            .set("topic.metadata.refresh.interval.ms", "60000");
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
        client
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
        // With the newer protocol the brokers choose the assignment.
        if self.properties.get("group.protocol").is_none_or(|protocol| protocol != "consumer") {
            client.set("partition.assignment.strategy", "cooperative-sticky");
        }
        client
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of properties may be secrets.
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("replication_factor", &self.replication_factor)
            .field("min_insync_replicas", &self.min_insync_replicas)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("linger", &self.linger)
            .field("fetch_wait", &self.fetch_wait)
            .field("request_timeout", &self.request_timeout)
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

    #[test]
    fn what_the_guarantees_rest_on_can_not_be_set_and_secrets_are_not_shown() {
        let mut config = KafkaConfig::new("localhost:9092");
        config.properties.insert("sasl.password".to_owned(), "hush".to_owned());
        assert!(config.check().is_ok());
        assert!(!format!("{config:?}").contains("hush"));
        config.properties.insert("acks".to_owned(), "0".to_owned());
        assert!(matches!(config.check(), Err(BusError::Invalid(text)) if text.contains("acks")));
    }
}
