//! Settings of the bus.

use std::{fmt, path::PathBuf, time::Duration};

use config::Map;
use runmesh_bus::kafka::{GroupProtocol, KafkaConfig, Sasl, SaslMechanism, Tls};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};

/// What stands before the brokers in the setting.
const KAFKA: &str = "kafka://";

/// The bus.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// `embedded`, or `kafka://host:port,host:port`.
    pub uri: String,
    /// Encrypted connections to the brokers.
    pub tls: BusTlsConfig,
    /// Who this process is to the brokers.
    pub sasl: BusSaslConfig,
    /// How many brokers keep each topic that is made. `None`: the cluster's default.
    pub replication_factor: Option<u16>,
    /// How many of them have to have a record before it is durable, for topics that are made. `None`: the cluster's
    /// default.
    pub min_insync_replicas: Option<u16>,
    /// `classic`, or `consumer` (KIP-848).
    pub group_protocol: GroupProtocol,
    /// Whether the node's name keeps its partitions for it while it is away.
    pub static_membership: bool,
    /// How long a group believes in a member without a sign of life.
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    /// Further properties of the Kafka client, by librdkafka's names. Values may be secrets, so they are not shown.
    #[serde(skip_serializing)]
    pub properties: Map<String, String>,
}

/// Encrypted connections to the brokers. All files are PEM.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusTlsConfig {
    /// Whether connections are encrypted. Each of the others says so too.
    pub enabled: bool,
    /// The authorities of the brokers' certificates. `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// This node's certificate.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The password of the private key.
    #[serde(skip_serializing)]
    pub key_password: Option<String>,
}

/// Who this process is to the brokers.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusSaslConfig {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: Option<SaslMechanism>,
    /// The name.
    pub username: Option<String>,
    /// The password.
    #[serde(skip_serializing)]
    pub password: Option<String>,
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            uri: "embedded".to_owned(),
            tls: BusTlsConfig::default(),
            sasl: BusSaslConfig::default(),
            replication_factor: None,
            min_insync_replicas: None,
            group_protocol: GroupProtocol::default(),
            static_membership: false,
            session_timeout: KafkaConfig::new("").session_timeout,
            properties: Map::new(),
        }
    }
}

impl fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("BusConfig")
            .field("uri", &self.uri)
            .field("tls", &self.tls)
            .field("sasl", &self.sasl)
            .field("replication_factor", &self.replication_factor)
            .field("min_insync_replicas", &self.min_insync_replicas)
            .field("group_protocol", &self.group_protocol)
            .field("static_membership", &self.static_membership)
            .field("session_timeout", &self.session_timeout)
            .field("properties", &properties)
            .finish()
    }
}

impl fmt::Debug for BusTlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusTlsConfig")
            .field("enabled", &self.enabled)
            .field("ca", &self.ca)
            .field("certificate", &self.certificate)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BusSaslConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusSaslConfig")
            .field("mechanism", &self.mechanism)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl BusConfig {
    /// Whether the settings name another bus than the store itself, so that a relay has to publish.
    pub(crate) fn is_remote(&self) -> bool {
        self.uri.starts_with(KAFKA)
    }

    /// What the Kafka bus has to know. `None`: the bus is embedded.
    pub(crate) fn kafka(&self, node: &str) -> Option<KafkaConfig> {
        let brokers = self.uri.strip_prefix(KAFKA)?;
        Some(KafkaConfig {
            client_id: format!("runmesh-{node}"),
            tls: self.tls.files(),
            sasl: self.sasl.credentials(),
            replication_factor: self.replication_factor,
            min_insync_replicas: self.min_insync_replicas,
            group_protocol: self.group_protocol,
            static_member: self.static_membership.then(|| node.to_owned()),
            session_timeout: self.session_timeout,
            properties: self.properties.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            ..KafkaConfig::new(brokers)
        })
    }
}

impl BusTlsConfig {
    fn files(&self) -> Option<Tls> {
        let Self { enabled, ca, certificate, key, key_password } = self.clone();
        let wanted = enabled || ca.is_some() || certificate.is_some() || key.is_some();
        wanted.then_some(Tls { ca, certificate, key, key_password })
    }
}

impl BusSaslConfig {
    fn credentials(&self) -> Option<Sasl> {
        let Self { mechanism: Some(mechanism), username: Some(username), password: Some(password) } = self.clone()
        else {
            return None;
        };
        Some(Sasl { mechanism, username, password })
    }

    fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

/// Refuses values that can't work.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key, reason: &str| Err(ConfigError::Setting { key, reason: reason.to_owned() });
    let bus = &config.bus;
    if bus.uri != "embedded" && !bus.is_remote() {
        let reason = format!("{:?} is neither embedded nor kafka://HOST:PORT", bus.uri);
        return refuse("bus.uri", &reason);
    }
    if bus.sasl.is_set() && bus.sasl.mechanism.is_none() {
        return refuse("bus.sasl.mechanism", "is missing: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
    }
    if bus.sasl.is_set() && bus.sasl.username.is_none() {
        return refuse("bus.sasl.username", "is missing");
    }
    if bus.sasl.is_set() && bus.sasl.password.is_none() {
        return refuse("bus.sasl.password", "is missing");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if bus.static_membership && !(config.node.len() <= 249 && config.node.chars().all(is_plain)) {
        let reason =
            "can be up to 249 letters, digits, dots, underscores and hyphens where bus.static_membership is on";
        return refuse("node", reason);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Environment;

    fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runmesh.toml");
        std::fs::write(&path, file).unwrap();
        let settings = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(Some(&path), &Environment { settings, ..Environment::default() }, &[], &[])
    }

    fn refusal(file: &str) -> String {
        load(file, &[]).unwrap_err().to_string()
    }

    const SECURED: &str = r#"
        node = "node-7"
        [bus]
        uri = "kafka://a:9092,b:9092"
        replication_factor = 3
        min_insync_replicas = 2
        group_protocol = "consumer"
        static_membership = true
        session_timeout = "20s"
        [bus.tls]
        ca = "/etc/ca.pem"
        [bus.sasl]
        mechanism = "SCRAM-SHA-512"
        username = "runmesh"
        [bus.properties]
        "ssl.cipher.suites" = "whisper"
    "#;

    #[test]
    fn the_settings_become_those_of_the_kafka_bus_and_secrets_are_not_shown() {
        let config = load(SECURED, &[("RUNMESH_BUS__SASL__PASSWORD", "hush")]).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("hush") && !shown.contains("whisper"), "{shown}");
        let kafka = config.bus.kafka(&config.node).unwrap();
        assert_eq!((kafka.brokers.as_str(), kafka.client_id.as_str()), ("a:9092,b:9092", "runmesh-node-7"));
        assert_eq!((kafka.replication_factor, kafka.min_insync_replicas), (Some(3), Some(2)));
        assert_eq!(kafka.group_protocol, GroupProtocol::Consumer);
        assert_eq!(kafka.static_member.as_deref(), Some("node-7"));
        assert_eq!(kafka.session_timeout, Duration::from_secs(20));
        assert_eq!(kafka.tls.unwrap().ca.as_deref(), Some(Path::new("/etc/ca.pem")));
        let sasl = kafka.sasl.unwrap();
        assert_eq!((sasl.mechanism, &*sasl.username, &*sasl.password), (SaslMechanism::ScramSha512, "runmesh", "hush"));
        assert_eq!(kafka.properties["ssl.cipher.suites"], "whisper");

        let plain = load("[bus]\nuri = \"kafka://a:9092\"\n", &[]).unwrap();
        let kafka = plain.bus.kafka(&plain.node).unwrap();
        assert_eq!((kafka.tls, kafka.sasl, kafka.static_member), (None, None, None));
        let enabled = load("[bus]\nuri = \"kafka://a:9092\"\ntls.enabled = true\n", &[]).unwrap();
        assert_eq!(enabled.bus.kafka("node").unwrap().tls, Some(Tls::default()));
        assert_eq!(load("", &[]).unwrap().bus.kafka("node"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refusal("[bus]\nuri = \"rabbit://a\"\n").contains("bus.uri"));
        assert!(refusal("[bus.sasl]\nmechanism = \"PLAIN\"\npassword = \"x\"\n").contains("bus.sasl.username"));
        assert!(refusal("[bus.sasl]\nmechanism = \"PLAIN\"\nusername = \"x\"\n").contains("bus.sasl.password"));
        assert!(refusal("[bus.sasl]\nusername = \"x\"\npassword = \"x\"\n").contains("bus.sasl.mechanism"));
        for (file, words) in [
            ("[bus.sasl]\nmechanism = \"GSSAPI\"\n", ["GSSAPI", "bus.sasl.mechanism"]),
            ("[bus]\ngroup_protocol = \"eager\"\n", ["eager", "bus.group_protocol"]),
            ("[bus]\nreplication_factor = -1\n", ["bus.replication_factor", "-1"]),
            ("[bus.tls]\nauthority = \"x\"\n", ["authority", "bus.tls"]),
            ("node = \"a b\"\nbus.static_membership = true\n", ["node", "bus.static_membership"]),
        ] {
            let text = refusal(file);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }
}
