//! Settings: defaults, a TOML file, the environment, flags; each overrides those before it.

mod bus;
mod check;
mod faults;
mod network;
mod replay;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{FileFormat, Map};
use runmesh_execution::ExecutionConfig;
use runmesh_rpc::Secret;
use runmesh_runner::Avoid;
use runmesh_saga::SagaConfig;
use runmesh_scheduler::SchedulerConfig;
use serde::{Deserialize, Serialize};

use self::faults::FaultsConfig;
use self::network::{GrpcConfig, HealthConfig, TlsConfig, UpstreamSettings};
use self::replay::ReplayConfig;
pub(crate) use self::{
    bus::BusConfig,
    network::{Upstreams, addresses},
};
use crate::Environment;

/// Settings that are lists: one text with commas stands for all values.
const LISTS: [&str; 3] = ["gateway.cors_origins", "gateway.allowed_hosts", "replay.topics"];

/// What stands before the name of a property of the Kafka client.
const PROPERTIES: &str = "bus.properties.";

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A source can't be read, names an unknown setting, or has a value of the wrong kind.
    #[error("configuration: {0}")]
    Source(#[from] config::ConfigError),
    /// A setting has a value that can't work.
    #[error("configuration: {key}: {reason}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// All settings of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder for the node's data. Empty: the user's data folder.
    pub data: PathBuf,
    /// The node's name, which has to be unique in the mesh and the same after a restart.
    pub node: String,
    /// The event and document store.
    pub store: StoreConfig,
    /// The bus.
    pub bus: BusConfig,
    /// The gRPC server.
    pub grpc: GrpcConfig,
    /// A listener for probes.
    pub health: HealthConfig,
    /// TLS of the gRPC server, and of the calls to others.
    pub tls: TlsConfig,
    /// Calls to the gRPC servers of other processes.
    pub upstream: UpstreamSettings,
    /// Where the services of other processes are: addresses by the names of their roles.
    pub services: Map<String, String>,
    /// The HTTP gateway.
    pub http: ListenConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// The execution service.
    pub execution: ExecutionConfig,
    /// The scheduler.
    pub scheduler: SchedulerConfig,
    /// The saga.
    pub saga: SagaConfig,
    /// The runner.
    pub runner: RunnerConfig,
    /// What exists, compared with what the logs say.
    pub reconciler: ReconcilerConfig,
    /// Replays.
    pub replay: ReplayConfig,
    /// The gateway.
    pub gateway: GatewaySettings,
    /// Faults on purpose.
    pub faults: FaultsConfig,
    /// Logs.
    pub log: LogConfig,
    /// Traces.
    pub telemetry: TelemetryConfig,
    /// Shutdown.
    pub shutdown: ShutdownConfig,
}

/// The event and document store.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite:PATH` or `mongodb://HOST:PORT/DATABASE`. Empty: a file in the data folder. It may hold a password, so it is
    /// not shown.
    #[serde(skip_serializing)]
    pub uri: String,
    /// What a commit to SQLite waits for: `process` (survives the end of the process) or `power` (survives a power cut).
    pub durability: Durability,
    /// The greatest number of connections to each server of MongoDB.
    pub pool_size: u32,
    /// How long a connection to MongoDB, or the choice of a server, may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a call to MongoDB may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("durability", &self.durability)
            .field("pool_size", &self.pool_size)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The operating system has the data.
    #[default]
    Process,
    /// The disk has the data.
    Power,
}

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// The address and port. Port 0: any free one.
    pub listen: SocketAddr,
}

/// Who may call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The bearer token that callers need. Required beyond loopback.
    #[serde(skip_serializing)]
    pub token: Option<String>,
}

/// The runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunnerConfig {
    /// How long a cancelled script has between SIGTERM and SIGKILL.
    #[serde(with = "humantime_serde")]
    pub cancel_grace: Duration,
    /// A registry file of runtimes instead of the one that is built in.
    pub runtimes: Option<PathBuf>,
    /// Refuse every request of which a limit can't be held to in full, as if it asked for that itself.
    pub strict: bool,
    /// How many sandboxes are set up in advance.
    pub pool: usize,
    /// Whether interpreters wait in some of them, where that is possible.
    pub prepare: bool,
    /// What the sandbox is not to use, though the machine may have it.
    pub avoid: Avoid,
    /// Bytes of memory of the largest execution that it takes. 0: the memory of the machine.
    pub memory_bytes: u64,
    /// Thousandths of a core of the largest execution that it takes. 0: any.
    pub cpu_millis: u64,
}

/// The gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// The origins whose pages may call the gateway. `*`: any.
    pub cors_origins: Vec<String>,
    /// More values of `Host` to serve where no token is set.
    pub allowed_hosts: Vec<String>,
    /// How long a stream may be silent before a comment line shows that it is alive.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The addresses of the gRPC servers behind the gateway that host what `services` does not name, such as
    /// `127.0.0.1:7300`, where the node itself is not it.
    pub upstream: Option<String>,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A filter, such as `info` or `warn,runmesh_bus=debug`.
    pub filter: String,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Traces.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where spans are sent by OTLP over gRPC, such as `http://127.0.0.1:4317`. Empty: nowhere.
    pub otlp_endpoint: Option<String>,
}

/// What exists, compared with what the logs say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcilerConfig {
    /// The time from one look to the next. What two looks in a row find is repaired.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

/// Shutdown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// How long running scripts and open calls have to end.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::new(),
            node: "node-1".to_owned(),
            store: StoreConfig::default(),
            bus: BusConfig::default(),
            grpc: GrpcConfig::default(),
            health: HealthConfig::default(),
            tls: TlsConfig::default(),
            upstream: UpstreamSettings::default(),
            services: Map::new(),
            http: ListenConfig { listen: ([127, 0, 0, 1], 7380).into() },
            auth: AuthConfig::default(),
            execution: ExecutionConfig::default(),
            scheduler: SchedulerConfig::default(),
            saga: SagaConfig::default(),
            runner: RunnerConfig::default(),
            reconciler: ReconcilerConfig::default(),
            replay: ReplayConfig::default(),
            gateway: GatewaySettings::default(),
            faults: FaultsConfig::default(),
            log: LogConfig::default(),
            telemetry: TelemetryConfig::default(),
            shutdown: ShutdownConfig::default(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            uri: String::new(),
            durability: Durability::default(),
            pool_size: 64,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self {
            cancel_grace: Duration::from_secs(2),
            runtimes: None,
            strict: false,
            pool: 2,
            prepare: true,
            avoid: Avoid::default(),
            memory_bytes: 0,
            cpu_millis: 0,
        }
    }
}

impl Default for ReconcilerConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30) }
    }
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self { cors_origins: Vec::new(), allowed_hosts: Vec::new(), heartbeat: Duration::from_secs(15), upstream: None }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info".to_owned() }
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain: Duration::from_secs(10) }
    }
}

impl Config {
    /// Reads the settings: defaults (those given here before the built-in ones), then the file, then the environment, then
    /// the overrides (`key=value`).
    ///
    /// # Errors
    /// When a source can't be read, a setting is unknown, or a value can't work; the error names the setting.
    pub fn load(
        file: Option<&Path>,
        environment: &Environment,
        overrides: &[String],
        defaults: &[(&str, &str)],
    ) -> Result<Self, ConfigError> {
        if let Some(name) = environment.unreadable.first() {
            return Err(ConfigError::Setting { key: "environment", reason: format!("{name} is not UTF-8") });
        }
        // Tables of limits, of which each setting overrides its own default alone.
        let limits = Map::from([("execution".to_owned(), ExecutionConfig::default())]);
        let mut builder = config::Config::builder().add_source(config::Config::try_from(&limits)?);
        for (key, value) in defaults {
            builder = builder.set_default(*key, *value)?;
        }
        if let Some(file) = file {
            builder = builder.add_source(config::File::from(file).format(FileFormat::Toml));
        }
        let mut assignments: Vec<(String, &str)> = environment
            .settings
            .iter()
            .map(|(name, value)| {
                (name.trim_start_matches("RUNMESH_").to_lowercase().replace("__", "."), value.as_str())
            })
            .collect();
        for entry in overrides {
            let (key, value) = entry.split_once('=').ok_or_else(|| ConfigError::Setting {
                key: "--set",
                reason: format!("{entry:?} is not of the form key=value"),
            })?;
            assignments.push((key.to_owned(), value));
        }
        // A property's name has dots of its own, so it can't be a path of settings.
        let mut properties = Map::new();
        for (key, value) in assignments {
            if let Some(property) = key.strip_prefix(PROPERTIES) {
                properties.insert(property.to_owned(), value.to_owned());
            } else if LISTS.contains(&key.as_str()) {
                let values: Vec<&str> = value.split(',').map(str::trim).filter(|value| !value.is_empty()).collect();
                builder = builder.set_override(key, values)?;
            } else {
                builder = builder.set_override(key, value)?;
            }
        }
        let mut config: Self = builder.build()?.try_deserialize()?;
        config.bus.properties.extend(properties);
        config.check()
    }

    /// Refuses to listen beyond loopback where anyone could call: without a token, and for gRPC without clients'
    /// certificates. The listener for health tells nothing else, so it may.
    ///
    /// # Errors
    /// With the setting that would open the node.
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        let certified = self.tls.requires_client_certificate();
        for (key, listen, is_closed) in
            [("grpc.listen", self.grpc.listen, certified), ("http.listen", self.http.listen, false)]
        {
            if !listen.ip().is_loopback() && self.auth.token.is_none() && !is_closed {
                let reason = format!("{listen} is beyond loopback: set auth.token, the bearer token that callers need");
                return Err(ConfigError::Setting { key, reason });
            }
        }
        Ok(())
    }

    /// The bearer token.
    pub fn token(&self) -> Option<Secret> {
        self.auth.token.as_deref().map(Secret::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: Option<&str>, variables: &[(&str, &str)], overrides: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runmesh.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let settings = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let environment = Environment { settings, ..Environment::default() };
        let overrides: Vec<String> = overrides.iter().map(|entry| (*entry).to_owned()).collect();
        Config::load(file.map(|_| path.as_path()), &environment, &overrides, &[("log.filter", "error")])
    }

    #[test]
    fn flags_override_the_environment_which_overrides_the_file() {
        let file = "[scheduler]\nslots = 1\n[log]\nfilter = \"warn\"\n[execution.default_limits]\nwall_time = \"5s\"\noutput_bytes = 1\nmemory_bytes = 4194304\ncpu_millis = 10\n";
        let only_file = load(Some(file), &[], &[]).unwrap();
        assert_eq!((only_file.scheduler.slots, only_file.log.filter.as_str()), (1, "warn"));
        assert_eq!(only_file.execution.default_limits.wall_time, Duration::from_secs(5));
        let variables = [("RUNMESH_SCHEDULER__SLOTS", "2"), ("RUNMESH_GATEWAY__CORS_ORIGINS", "http://a,http://b")];
        let environment = load(Some(file), &variables, &[]).unwrap();
        assert_eq!((environment.scheduler.slots, environment.log.filter.as_str()), (2, "warn"));
        assert_eq!(environment.gateway.cors_origins, ["http://a", "http://b"]);
        let flags = load(Some(file), &variables, &["scheduler.slots=3"]).unwrap();
        assert_eq!(flags.scheduler.slots, 3);
    }

    #[test]
    fn a_limit_overrides_its_own_default_alone() {
        let known = ExecutionConfig::default();
        let file = "[execution.maximum_limits]\ncpu_millis = 8000\n";
        let variables = [("RUNMESH_EXECUTION__DEFAULT_COMPILE_LIMITS__WALL_TIME", "7s")];
        let overrides = ["execution.default_limits.memory_bytes=8388608", "execution.default_limits.cpu_time=3s"];
        let execution = load(Some(file), &variables, &overrides).unwrap().execution;
        let mut expected = known.clone();
        expected.maximum_limits.cpu_millis = 8_000;
        expected.default_compile_limits.wall_time = Duration::from_secs(7);
        expected.default_limits.memory_bytes = 8 << 20;
        expected.default_limits.cpu_time = Duration::from_secs(3);
        assert_eq!(execution, expected);
        assert_eq!(load(None, &[], &[]).unwrap().execution, known);
        let words = load(None, &[], &["scheduler.policy.weights.alice=0"]).unwrap_err().to_string();
        assert!(words.contains("scheduler.policy.weights: has 0 for \"alice\""), "{words}");
        let words = load(None, &[], &["execution.default_limits.memory=1"]).unwrap_err().to_string();
        assert!(words.contains("memory"), "{words}");
        let words = load(None, &[], &["execution.default_limits.memory_bytes=1"]).unwrap_err().to_string();
        assert!(words.contains("memory_bytes of less than 4194304"), "{words}");
    }

    #[test]
    fn values_are_taken_as_they_are_written() {
        for token in ["0012345678901234567", "12345678901234e5", "123456789012345678901234"] {
            let config = load(None, &[("RUNMESH_AUTH__TOKEN", token)], &[]).unwrap();
            assert_eq!(config.auth.token.as_deref(), Some(token));
        }
        let overrides = ["gateway.cors_origins=https://a, https://b", "bus.properties.security.protocol=ssl"];
        let config = load(None, &[], &overrides).unwrap();
        assert_eq!(config.gateway.cors_origins, ["https://a", "https://b"]);
        assert_eq!(config.bus.properties.get("security.protocol").map(String::as_str), Some("ssl"));
        assert_eq!(config.log.filter, "error", "the default that was given");
        assert!(load(None, &[], &["gateway.heartbeat=0s"]).is_err());
        let replay = load(None, &[("RUNMESH_REPLAY__TOPICS", "a,b")], &["bus.uri=kafka://a:9092"]).unwrap().replay;
        assert_eq!((replay.topics, replay.at_a_time), (vec!["a".to_owned(), "b".to_owned()], 4));
        for (settings, words) in [
            (vec!["replay.topics=a"], "Kafka alone"),
            (vec!["bus.uri=kafka://a:9092", "replay.topics=pod_created"], "event type"),
            (vec!["bus.uri=kafka://a:9092", "replay.topics=a b"], "\"a b\""),
            (vec!["replay.at_a_time=0"], "replay.at_a_time"),
        ] {
            let error = load(None, &[], &settings).unwrap_err().to_string();
            assert!(error.contains(words), "{settings:?}: {error}");
        }
        let unreadable = Environment { unreadable: vec!["RUNMESH_AUTH__TOKEN".to_owned()], ..Environment::default() };
        let words = Config::load(None, &unreadable, &[], &[]).unwrap_err().to_string();
        assert!(words.contains("RUNMESH_AUTH__TOKEN"), "{words}");
    }

    #[test]
    fn an_unknown_setting_is_an_error_that_names_it() {
        for result in [
            load(Some("[scheduler]\nslotz = 1\n"), &[], &[]),
            load(None, &[("RUNMESH_SCHEDULER__SLOTZ", "1")], &[]),
            load(None, &[], &["scheduler.slotz=1"]),
        ] {
            let words = result.unwrap_err().to_string();
            assert!(words.contains("slotz"), "{words}");
        }
    }

    #[test]
    fn beyond_loopback_a_token_is_needed() {
        let open = load(None, &[], &["grpc.listen=0.0.0.0:7300"]).unwrap();
        assert!(open.check_exposure().unwrap_err().to_string().contains("auth.token"));
        let http = load(None, &[], &["http.listen=[::]:7380"]).unwrap();
        assert!(http.check_exposure().is_err());
        let with_token = load(None, &[], &["grpc.listen=0.0.0.0:7300", "auth.token=0123456789abcdef"]).unwrap();
        assert!(with_token.check_exposure().is_ok());
        let files = ["tls.certificate=a.crt", "tls.key=a.key", "tls.ca=ca.crt"];
        let beyond = |listen: &str, client_auth: &str| {
            let client_auth = format!("tls.client_auth={client_auth}");
            load(None, &[], &[files[0], files[1], files[2], listen, &client_auth]).unwrap().check_exposure()
        };
        assert!(beyond("grpc.listen=0.0.0.0:7300", "require").is_ok());
        assert!(beyond("grpc.listen=0.0.0.0:7300", "optional").is_err());
        assert!(beyond("http.listen=0.0.0.0:7380", "require").is_err(), "the gateway has no TLS");
        assert!(load(None, &[], &["health.listen=0.0.0.0:7301"]).unwrap().check_exposure().is_ok());
        assert!(load(None, &[], &[]).unwrap().check_exposure().is_ok());
    }
    #[test]
    fn addresses_are_checked_with_the_rest() {
        let variables = [
            ("RUNMESH_SERVICES__EXECUTION", "http://a:1,http://b:2"),
            ("RUNMESH_SERVICES__EVENT_LOG", "dns://events:7300"),
            ("RUNMESH_UPSTREAM__RETRY_BUDGET", "0.5"),
        ];
        let config = load(None, &variables, &["gateway.upstream=127.0.0.1:7300"]).unwrap();
        assert!((config.upstream.retry_budget - 0.5).abs() < f64::EPSILON);
        let Upstreams { roles, rest } = addresses(&config).unwrap();
        assert!(roles.iter().any(|(role, _)| *role == crate::Role::EventLog) && roles.len() == 2 && rest.is_some());

        let tls = ["tls.certificate=a.crt", "tls.key=a.key", "tls.ca=ca.crt"];
        for (settings, words) in [
            (
                vec!["services.runner=a:1"],
                "\"runner\" is not a role with a gRPC service; one of: execution, scheduler, saga, results, dlq, replay, event_log",
            ),
            (vec!["services.results=a"], "services: \"a\""),
            (vec!["gateway.upstream=ftp://a:1"], "gateway.upstream"),
            (vec!["services.results=https://a:1"], "tls.certificate"),
            (vec!["services.results=http://a:1", tls[0], tls[1], tls[2]], "not encrypted"),
            (vec![tls[0], tls[1]], "certificate, key and ca"),
            (vec!["upstream.retry_budget=1.5"], "upstream.retry_budget"),
            (vec!["upstream.attempts=0"], "upstream.attempts"),
            (vec!["grpc.max_calls=0"], "grpc.max_calls"),
            (vec!["upstream.timeout=0s"], "upstream.timeout"),
        ] {
            let error = load(None, &[], &settings).unwrap_err().to_string();
            assert!(error.contains(words), "{settings:?}: {error}");
        }
    }
}
