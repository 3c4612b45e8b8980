//! A Compose project, as `docker compose config` gives it.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

use crate::deploy_check;

/// A project: what the tests look at.
#[derive(Debug, Deserialize)]
pub struct Compose {
    /// The services by their names.
    pub services: BTreeMap<String, Service>,
    /// The networks: `internal` is whether they have no way out.
    pub networks: BTreeMap<String, Network>,
    /// The named volumes.
    pub volumes: BTreeMap<String, Value>,
    /// The files that are given to services.
    pub configs: BTreeMap<String, ConfigFile>,
}

/// A network.
#[derive(Debug, Deserialize)]
pub struct Network {
    /// Whether it has no way out.
    #[serde(default)]
    pub internal: bool,
}

/// A file that is given to services.
#[derive(Debug, Deserialize)]
pub struct ConfigFile {
    /// Its path on this machine.
    pub file: String,
}

/// A service.
#[derive(Debug, Deserialize)]
pub struct Service {
    /// The image.
    pub image: String,
    /// What runs.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, Option<String>>,
    /// What has to be there before it.
    #[serde(default)]
    pub depends_on: BTreeMap<String, Dependency>,
    /// How it is asked whether it works.
    pub healthcheck: Option<HealthCheck>,
    /// Ports of this machine that lead to it.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Its networks.
    #[serde(default)]
    pub networks: BTreeMap<String, Value>,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// Whether its root can't be written to.
    #[serde(default)]
    pub read_only: bool,
    /// The capabilities that it does not have.
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// Further restrictions.
    #[serde(default)]
    pub security_opt: Vec<String>,
    /// Folders in memory.
    #[serde(default)]
    pub tmpfs: Vec<String>,
    /// How long it has to end.
    #[serde(default)]
    pub stop_grace_period: Option<String>,
    /// Whether it is started again.
    #[serde(default)]
    pub restart: Option<String>,
}

/// A service that has to be there before another.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// What is waited for.
    pub condition: String,
}

/// How a service is asked whether it works.
#[derive(Debug, Deserialize)]
pub struct HealthCheck {
    /// The command.
    pub test: Vec<String>,
}

/// A port of this machine.
#[derive(Debug, Deserialize)]
pub struct Port {
    /// The address of this machine. `None`: all.
    #[serde(default)]
    pub host_ip: Option<String>,
    /// The port of the container.
    pub target: u16,
    /// The port of this machine.
    pub published: String,
}

/// A volume in a container.
#[derive(Debug, Deserialize)]
pub struct Mount {
    /// `volume` or `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The volume's name.
    pub source: String,
    /// The folder in the container.
    pub target: String,
}

impl Compose {
    /// Reads `deploy/compose.yaml` with a file of variables.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn read(variables: &Path) -> anyhow::Result<Self> {
        let variables = variables.to_str().context("a path that is no text")?;
        Ok(serde_json::from_value(deploy_check(&["compose", "deploy/compose.yaml", variables])?)?)
    }
}
