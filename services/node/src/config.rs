//! Settings: defaults, a TOML file, the environment, flags; each overrides those before it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{FileFormat, Map};
use runmesh_execution::ExecutionConfig;
use runmesh_rpc::Secret;
use runmesh_runner::Avoid;
use runmesh_scheduler::SchedulerConfig;
use serde::{Deserialize, Serialize};

use crate::Environment;

/// Settings that are lists: one text with commas stands for all values.
const LISTS: [&str; 2] = ["gateway.cors_origins", "gateway.allowed_hosts"];

/// What stands before the name of a property of the Kafka client.
const PROPERTIES: &str = "bus.properties.";

/// The shortest heartbeat.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);

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
    pub grpc: ListenConfig,
    /// The HTTP gateway.
    pub http: ListenConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// The execution service.
    pub execution: ExecutionConfig,
    /// The scheduler.
    pub scheduler: SchedulerConfig,
    /// The runner.
    pub runner: RunnerConfig,
    /// The gateway.
    pub gateway: GatewaySettings,
    /// Logs.
    pub log: LogConfig,
    /// Traces.
    pub telemetry: TelemetryConfig,
    /// Shutdown.
    pub shutdown: ShutdownConfig,
}

/// The event and document store.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite:PATH`. Empty: a file in the data folder.
    pub uri: String,
    /// What a commit waits for: `process` (survives the end of the process) or `power` (survives a power cut).
    pub durability: Durability,
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

/// The bus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// `embedded`, or `kafka://host:port,host:port`.
    pub uri: String,
    /// Further properties of the Kafka client, by librdkafka's names.
    pub properties: Map<String, String>,
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
    /// What the sandbox is not to use, though the machine may have it.
    pub avoid: Avoid,
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
    /// The address of the gRPC server behind the gateway, such as `http://127.0.0.1:7300`, where the node itself is not it.
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
            grpc: ListenConfig { listen: ([127, 0, 0, 1], 7300).into() },
            http: ListenConfig { listen: ([127, 0, 0, 1], 7380).into() },
            auth: AuthConfig::default(),
            execution: ExecutionConfig::default(),
            scheduler: SchedulerConfig::default(),
            runner: RunnerConfig::default(),
            gateway: GatewaySettings::default(),
            log: LogConfig::default(),
            telemetry: TelemetryConfig::default(),
            shutdown: ShutdownConfig::default(),
        }
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self { uri: "embedded".to_owned(), properties: Map::new() }
    }
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self { cancel_grace: Duration::from_secs(2), runtimes: None, strict: false, pool: 2, avoid: Avoid::default() }
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
        let mut builder = config::Config::builder();
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

    /// Refuses values that can't work.
    fn check(self) -> Result<Self, ConfigError> {
        let refuse = |key, reason: String| Err(ConfigError::Setting { key, reason });
        if self.node.is_empty() {
            return refuse("node", "is empty".to_owned());
        }
        if self.auth.token.as_deref().is_some_and(|token| token.len() < 16) {
            return refuse("auth.token", "has fewer than 16 characters".to_owned());
        }
        if !self.store.uri.is_empty() && !self.store.uri.starts_with("sqlite:") {
            return refuse("store.uri", format!("{:?} is not of the form sqlite:PATH", self.store.uri));
        }
        if self.bus.uri != "embedded" && !self.bus.uri.starts_with("kafka://") {
            return refuse("bus.uri", format!("{:?} is neither embedded nor kafka://HOST:PORT", self.bus.uri));
        }
        if self.gateway.heartbeat < SHORTEST_HEARTBEAT {
            return refuse("gateway.heartbeat", "is less than 100ms".to_owned());
        }
        let (default, maximum) = (&self.execution.default_limits, &self.execution.maximum_limits);
        let within = default.wall_time <= maximum.wall_time
            && default.output_bytes <= maximum.output_bytes
            && default.memory_bytes <= maximum.memory_bytes
            && default.cpu_millis <= maximum.cpu_millis;
        if !within {
            return refuse("execution.default_limits", "is above execution.maximum_limits".to_owned());
        }
        Ok(self)
    }

    /// Refuses to listen beyond loopback without a token.
    ///
    /// # Errors
    /// With the setting that would open the node.
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        for (key, listen) in [("grpc.listen", self.grpc.listen), ("http.listen", self.http.listen)] {
            if !listen.ip().is_loopback() && self.auth.token.is_none() {
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
        let file = "[scheduler]\nslots = 1\n[log]\nfilter = \"warn\"\n[execution.default_limits]\nwall_time = \"5s\"\noutput_bytes = 1\nmemory_bytes = 1\ncpu_millis = 1\n";
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
        assert!(load(None, &[], &[]).unwrap().check_exposure().is_ok());
    }
}
