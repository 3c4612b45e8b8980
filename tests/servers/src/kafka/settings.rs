//! A cluster's settings: `server.properties` of each node.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rand::{RngExt as _, distr::Alphanumeric};

use crate::{KafkaOptions, ports::Ports};

/// For clients, for the other brokers, for the controllers.
pub(crate) const PORTS_PER_NODE: usize = 3;

/// What a listener asks of its clients. The default asks nothing.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Encrypted connections.
    pub tls: Option<Tls>,
    /// Names and passwords.
    pub sasl: Option<Sasl>,
}

/// A server's certificate, all of it PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate and those that lead to its authority. It has to name 127.0.0.1.
    pub certificate: String,
    /// Its private key, in PKCS #8.
    pub key: String,
    /// The authority of the clients' certificates. `None`: they need none.
    pub client_authority: Option<String>,
}

/// The users of PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512, the same for each.
#[derive(Debug, Clone)]
pub struct Sasl {
    /// Names and passwords.
    pub users: Vec<(String, String)>,
}

/// What the nodes of a cluster have in common.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    listeners: Vec<[SocketAddr; PORTS_PER_NODE]>,
    options: KafkaOptions,
}

impl Cluster {
    pub(crate) fn new(options: &KafkaOptions, ports: &Ports) -> Self {
        let node = |index| std::array::from_fn(|listener| ports.address(index * PORTS_PER_NODE + listener));
        let listeners = (0..options.nodes).map(node).collect();
        // 16 bytes in base64: the last of 22 characters has but four bits.
        let mut id: String = rand::rng().sample_iter(Alphanumeric).take(21).map(char::from).collect();
        id.push('A');
        Self { id, listeners, options: options.clone() }
    }

    /// Where a node listens for clients.
    pub(crate) fn listener(&self, node: usize) -> SocketAddr {
        self.listeners[node - 1][0]
    }

    /// What a node tells clients to connect to.
    pub(crate) fn advertised(&self, node: usize) -> SocketAddr {
        self.options.advertised.get(node - 1).copied().unwrap_or_else(|| self.listener(node))
    }

    /// What the storage tool has to know beside the settings: it makes the users of SCRAM.
    pub(crate) fn format_arguments(&self) -> Vec<String> {
        let users = self.options.security.sasl.iter().flat_map(|sasl| &sasl.users);
        users
            .flat_map(|(name, password)| {
                ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| {
                    ["--add-scram".to_owned(), format!("{mechanism}=[name={name},password={password}]")]
                })
            })
            .flatten()
            .collect()
    }

    /// Writes the certificate and key, where there are any.
    pub(crate) fn write_keys(&self, folder: &Path) -> anyhow::Result<()> {
        let Some(tls) = &self.options.security.tls else { return Ok(()) };
        let write = |file: PathBuf, text: &str| {
            fs::write(&file, text).with_context(|| format!("can't write {}", file.display()))
        };
        write(key_store(folder), &format!("{}\n{}", tls.key.trim(), tls.certificate))?;
        tls.client_authority.as_ref().map_or(Ok(()), |authority| write(trust_store(folder), authority))
    }

    /// The settings of a node, as the file's text.
    pub(crate) fn properties(&self, node: usize, folder: &Path, data: &Path) -> String {
        let [clients, brokers, controllers] = self.listeners[node - 1];
        let advertised = self.advertised(node);
        let voters: Vec<String> = self
            .listeners
            .iter()
            .enumerate()
            .map(|(index, [.., controllers])| format!("{}@{controllers}", index + 1))
            .collect();
        let protocol = match (&self.options.security.tls, &self.options.security.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        };
        let copies = self.options.nodes;
        let mut settings = vec![
            ("process.roles".to_owned(), "broker,controller".to_owned()),
            ("node.id".to_owned(), node.to_string()),
            ("controller.quorum.voters".to_owned(), voters.join(",")),
            ("controller.listener.names".to_owned(), "CONTROLLER".to_owned()),
            ("inter.broker.listener.name".to_owned(), "BROKERS".to_owned()),
            ("listeners".to_owned(), format!("CLIENTS://{clients},BROKERS://{brokers},CONTROLLER://{controllers}")),
            ("advertised.listeners".to_owned(), format!("CLIENTS://{advertised},BROKERS://{brokers}")),
            (
                "listener.security.protocol.map".to_owned(),
                format!("CLIENTS:{protocol},BROKERS:PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ),
            ("log.dirs".to_owned(), data.display().to_string()),
            ("default.replication.factor".to_owned(), copies.to_string()),
            ("min.insync.replicas".to_owned(), self.options.min_insync.to_string()),
            ("offsets.topic.replication.factor".to_owned(), copies.to_string()),
            ("transaction.state.log.replication.factor".to_owned(), copies.to_string()),
            ("transaction.state.log.min.isr".to_owned(), self.options.min_insync.to_string()),
            ("share.coordinator.state.topic.replication.factor".to_owned(), copies.to_string()),
            ("share.coordinator.state.topic.min.isr".to_owned(), self.options.min_insync.to_string()),
        ];
        settings.extend(COMMON.map(|(key, value)| (key.to_owned(), value.to_owned())));
        settings.extend(self.security_settings(folder));
        settings.extend(self.options.settings.iter().cloned());
        // The last line with a key wins.
        settings.iter().fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "{key}={}", value.replace('\\', "\\\\")).ok();
            text
        })
    }

    fn security_settings(&self, folder: &Path) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        let mut set = |key: &str, value: String| settings.push((format!("listener.name.clients.{key}"), value));
        if let Some(tls) = &self.options.security.tls {
            set("ssl.keystore.type", "PEM".to_owned());
            set("ssl.keystore.location", key_store(folder).display().to_string());
            if tls.client_authority.is_some() {
                set("ssl.client.auth", "required".to_owned());
                set("ssl.truststore.type", "PEM".to_owned());
                set("ssl.truststore.location", trust_store(folder).display().to_string());
            }
        }
        if let Some(sasl) = &self.options.security.sasl {
            let module = "org.apache.kafka.common.security";
            let users = sasl
                .users
                .iter()
                .fold(String::new(), |text, (name, password)| format!("{text} user_{name}=\"{password}\""));
            set("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned());
            set("plain.sasl.jaas.config", format!("{module}.plain.PlainLoginModule required{users};"));
            for mechanism in ["scram-sha-256", "scram-sha-512"] {
                set(&format!("{mechanism}.sasl.jaas.config"), format!("{module}.scram.ScramLoginModule required;"));
            }
        }
        settings
    }
}

/// What makes tests quick, and nothing that changes what is promised to clients. Topics are made by those who need them.
const COMMON: [(&str, &str); 14] = [
    ("auto.create.topics.enable", "false"),
    // A node that was killed may come back only after its session has ended.
    ("broker.session.timeout.ms", "4000"),
    ("broker.heartbeat.interval.ms", "500"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("group.min.session.timeout.ms", "1000"),
    ("group.consumer.min.session.timeout.ms", "1000"),
    ("group.consumer.session.timeout.ms", "30000"),
    ("group.consumer.min.heartbeat.interval.ms", "100"),
    ("group.consumer.heartbeat.interval.ms", "500"),
    ("group.consumer.assignment.interval.ms", "0"),
    // Each is a folder that has to be made before the first group is served.
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "4"),
    ("share.coordinator.state.topic.num.partitions", "4"),
    ("num.network.threads", "2"),
];

fn key_store(folder: &Path) -> PathBuf {
    folder.join("server.pem")
}

fn trust_store(folder: &Path) -> PathBuf {
    folder.join("clients.pem")
}
