//! Settings of what listens and of calls to other processes.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use runmesh_rpc::{
    ClientAuth, IdentityFiles, KeepAlive, Limits, Tls, TlsFiles,
    client::{Addresses, UpstreamConfig},
};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};
use crate::Role;

/// The most attempts at one call.
const MOST_ATTEMPTS: u32 = 10;

/// The gRPC server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// The address and port. Port 0: any free one.
    pub listen: SocketAddr,
    /// The most calls in hand, open streams and waiting calls aside. More are turned away.
    pub max_calls: usize,
    /// The most open streams and waiting calls. More are turned away.
    pub max_streams: usize,
    /// How long a connection may be silent before its client is asked whether it is still there.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// How long the answer may take.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
}

/// A listener for probes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Where `grpc.health.v1.Health` alone is served, without TLS and without a token. `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// TLS of the gRPC server, and of the calls to others.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate, and those between it and the CA (PEM).
    pub certificate: Option<PathBuf>,
    /// The certificate's private key (PEM).
    pub key: Option<PathBuf>,
    /// The certificates of those who are trusted to sign (PEM).
    pub ca: Option<PathBuf>,
    /// What the server asks of its clients.
    pub client_auth: ClientAuthSetting,
}

/// What a server with TLS asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthSetting {
    /// A certificate of the CA.
    #[default]
    Require,
    /// If a certificate, then one of the CA.
    Optional,
    /// None.
    None,
}

/// Calls to the gRPC servers of other processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamSettings {
    /// How long a connection may take to be there.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The deadline of unary calls that come without one.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a connection may be silent before its server is asked whether it is still there.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// How long the answer may take.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// How often names are resolved.
    #[serde(with = "humantime_serde")]
    pub resolve_interval: Duration,
    /// How often a call is made at most.
    pub attempts: u32,
    /// The share of calls that are made again, at most.
    pub retry_budget: f64,
    /// How many failures in a row eject a server.
    pub ejection_failures: u32,
    /// How long a server is left out after it failed, the first time.
    #[serde(with = "humantime_serde")]
    pub ejection_time: Duration,
    /// How long a server is left out at most.
    #[serde(with = "humantime_serde")]
    pub ejection_maximum: Duration,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        let (limits, keep_alive) = (Limits::default(), KeepAlive::default());
        Self {
            listen: ([127, 0, 0, 1], 7300).into(),
            max_calls: limits.calls,
            max_streams: limits.streams,
            keepalive_interval: keep_alive.interval,
            keepalive_timeout: keep_alive.timeout,
        }
    }
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        let config = UpstreamConfig::default();
        Self {
            connect_timeout: config.connect_timeout,
            timeout: config.timeout.unwrap_or(Duration::from_secs(30)),
            keepalive_interval: config.keep_alive.interval,
            keepalive_timeout: config.keep_alive.timeout,
            resolve_interval: config.resolve_interval,
            attempts: config.attempts,
            retry_budget: config.retry_share,
            ejection_failures: config.ejection_failures,
            ejection_time: config.ejection_time,
            ejection_maximum: config.ejection_maximum,
        }
    }
}

impl GrpcConfig {
    /// How much the server takes on at the same time.
    pub(crate) fn limits(&self) -> Limits {
        Limits { calls: self.max_calls, streams: self.max_streams }
    }

    /// When clients are asked whether they are still there.
    pub(crate) fn keep_alive(&self) -> KeepAlive {
        KeepAlive { interval: self.keepalive_interval, timeout: self.keepalive_timeout }
    }
}

impl TlsConfig {
    /// The files. `None`: TLS is not set up.
    fn files(&self) -> Option<TlsFiles> {
        let (certificate, key, ca) = (self.certificate.clone()?, self.key.clone()?, self.ca.clone()?);
        let client_auth = match self.client_auth {
            ClientAuthSetting::Require => ClientAuth::Require,
            ClientAuthSetting::Optional => ClientAuth::Optional,
            ClientAuthSetting::None => ClientAuth::None,
        };
        Some(TlsFiles { ca, identity: Some(IdentityFiles { certificate, key }), client_auth })
    }

    /// Reads the files. `None`: TLS is not set up.
    pub(crate) fn load(&self) -> Result<Option<Tls>, ConfigError> {
        let refuse = |error: runmesh_rpc::TlsError| ConfigError::Setting { key: "tls", reason: error.to_string() };
        self.files().map(Tls::load).transpose().map_err(refuse)
    }

    /// Whether a client without a certificate is refused.
    pub(crate) fn requires_client_certificate(&self) -> bool {
        self.files().is_some_and(|files| files.client_auth == ClientAuth::Require)
    }
}

impl UpstreamSettings {
    /// The settings of a channel.
    pub(crate) fn config(&self, tls: Option<Tls>) -> UpstreamConfig {
        UpstreamConfig {
            connect_timeout: self.connect_timeout,
            timeout: Some(self.timeout),
            keep_alive: KeepAlive { interval: self.keepalive_interval, timeout: self.keepalive_timeout },
            resolve_interval: self.resolve_interval,
            attempts: self.attempts,
            retry_share: self.retry_budget,
            ejection_failures: self.ejection_failures,
            ejection_time: self.ejection_time,
            ejection_maximum: self.ejection_maximum,
            tls,
            ..UpstreamConfig::default()
        }
    }
}

/// Refuses values that can't work.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key, reason: String| Err(ConfigError::Setting { key, reason });
    for (key, number) in [("grpc.max_calls", config.grpc.max_calls), ("grpc.max_streams", config.grpc.max_streams)] {
        if number == 0 {
            return refuse(key, "is 0".to_owned());
        }
    }
    let upstream = &config.upstream;
    for (key, time) in [
        ("grpc.keepalive_interval", config.grpc.keepalive_interval),
        ("grpc.keepalive_timeout", config.grpc.keepalive_timeout),
        ("upstream.connect_timeout", upstream.connect_timeout),
        ("upstream.timeout", upstream.timeout),
        ("upstream.keepalive_interval", upstream.keepalive_interval),
        ("upstream.keepalive_timeout", upstream.keepalive_timeout),
        ("upstream.resolve_interval", upstream.resolve_interval),
        ("upstream.ejection_time", upstream.ejection_time),
    ] {
        if time.is_zero() {
            return refuse(key, "is 0".to_owned());
        }
    }
    if upstream.ejection_maximum < upstream.ejection_time {
        return refuse("upstream.ejection_maximum", "is less than upstream.ejection_time".to_owned());
    }
    if upstream.ejection_failures == 0 {
        return refuse("upstream.ejection_failures", "is 0".to_owned());
    }
    if !(1..=MOST_ATTEMPTS).contains(&upstream.attempts) {
        return refuse("upstream.attempts", format!("is not between 1 and {MOST_ATTEMPTS}"));
    }
    if !(0.0..=1.0).contains(&upstream.retry_budget) {
        return refuse("upstream.retry_budget", "is not between 0 and 1".to_owned());
    }
    let tls = &config.tls;
    let files = [&tls.certificate, &tls.key, &tls.ca];
    if files.iter().any(|file| file.is_some()) && tls.files().is_none() {
        return refuse("tls", "needs certificate, key and ca, or none of them".to_owned());
    }
    addresses(config).map(drop)
}

/// Where the services of other processes are.
pub(crate) struct Upstreams {
    /// The roles that are named.
    pub(crate) roles: Vec<(Role, Addresses)>,
    /// All others. `None`: they are nowhere else.
    pub(crate) rest: Option<Addresses>,
}

/// Reads the addresses.
pub(crate) fn addresses(config: &Config) -> Result<Upstreams, ConfigError> {
    let mut roles = Vec::new();
    for (name, text) in &config.services {
        let role = Role::ALL.into_iter().find(|role| role.setting() == *name && !role.services().is_empty());
        let Some(role) = role else {
            let hosts = Role::ALL.into_iter().filter(|role| !role.services().is_empty());
            let known = hosts.map(|role| role.setting()).collect::<Vec<_>>().join(", ");
            let reason = format!("{name:?} is not a role with a gRPC service; one of: {known}");
            return Err(ConfigError::Setting { key: "services", reason });
        };
        roles.push((role, read("services", text, config)?));
    }
    let rest = config.gateway.upstream.as_deref().map(|text| read("gateway.upstream", text, config)).transpose()?;
    Ok(Upstreams { roles, rest })
}

fn read(key: &'static str, text: &str, config: &Config) -> Result<Addresses, ConfigError> {
    let refuse = |reason: String| ConfigError::Setting { key, reason };
    let addresses: Addresses =
        text.parse().map_err(|error: runmesh_rpc::client::AddressError| refuse(error.to_string()))?;
    let has_tls = config.tls.files().is_some();
    if addresses.need_tls() && !has_tls {
        return Err(refuse(format!("{text:?} says https, and tls.certificate, tls.key and tls.ca are not set")));
    }
    if addresses.refuse_tls() && has_tls {
        return Err(refuse(format!(
            "{text:?} says http, which is not encrypted, although tls is set: leave http:// out"
        )));
    }
    Ok(addresses)
}
