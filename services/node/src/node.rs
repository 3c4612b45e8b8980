//! A running node: its services, their groups, its listeners, and an orderly end.

mod services;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use runmesh_bus::{BusError, Consumer, Relay, TopicReport};
use runmesh_events::Catalog;
use runmesh_gateway::{Gateway, GatewayConfig};
use runmesh_rpc::{AccessPolicy, LocalChannel, RpcServer, ServerConfig};
use runmesh_runner::{RegistryError, Runner, SandboxError, ToolchainError};
use runmesh_scheduler::SchedulerError;
use runmesh_store::{
    SqliteStore, StoreError,
    sqlite::{Durability as StoreDurability, SqliteConfig},
};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::{Config, ConfigError, Environment, Role, Roles, bus, config::Durability};

/// How long what is cut at a shutdown may take to be gone.
const CUT: Duration = Duration::from_secs(2);

/// Why a node can't start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The settings can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store can't be opened.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The bus can't be opened.
    #[error("the bus: {0}")]
    Bus(#[from] BusError),
    /// The scheduler can't start.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// The sandbox can't be used.
    #[error("the sandbox: {0}")]
    Sandbox(#[from] SandboxError),
    /// The runtimes can't be read.
    #[error(transparent)]
    Runtimes(#[from] RegistryError),
    /// The compilers can't be used.
    #[error(transparent)]
    Toolchains(#[from] ToolchainError),
    /// An address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A part of the node ended by itself.
    #[error("{part} ended: {reason}")]
    Part {
        /// The part.
        part: String,
        /// Why.
        reason: String,
    },
}

/// Where a node listens.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For gRPC. `None`: only this process calls.
    pub grpc: Option<TcpListener>,
    /// For HTTP. `None`: no gateway.
    pub http: Option<TcpListener>,
}

impl Listeners {
    /// Binds the addresses of the settings that the roles need.
    ///
    /// # Errors
    /// [`NodeError::Listen`] when one can't be bound; [`NodeError::Config`] when it lies beyond loopback and there is no
    /// token.
    pub async fn bind(config: &Config, roles: &Roles) -> Result<Self, NodeError> {
        config.check_exposure()?;
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|source| NodeError::Listen { address, source })
        };
        let http = if roles.has(Role::Gateway) { Some(bind(config.http.listen).await?) } else { None };
        Ok(Self { grpc: Some(bind(config.grpc.listen).await?), http })
    }
}

type Part = (String, Result<(), String>);

/// A running node.
pub struct Node {
    server: RpcServer,
    /// Addresses that the node listens on.
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    topics: TopicReport,
    runner: Option<Runner>,
    drain: Duration,
    /// Stops what lets new work in: listeners, the runner's group.
    intake: CancellationToken,
    /// Stops everything else.
    rest: CancellationToken,
    intake_parts: JoinSet<Part>,
    /// The runner's group: it has to have stopped before the runs are drained.
    runner_parts: JoinSet<Part>,
    parts: JoinSet<Part>,
    // Held open until everything else has ended.
    store: SqliteStore,
}

impl Node {
    /// Starts a node with these roles.
    ///
    /// # Errors
    /// When a part can't start; nothing is left running.
    pub async fn start(
        config: &Config,
        environment: &Environment,
        roles: &Roles,
        listeners: Listeners,
        render_metrics: Option<Box<dyn Fn() -> String + Send + Sync>>,
    ) -> Result<Self, NodeError> {
        let data = if config.data.as_os_str().is_empty() { environment.data_folder() } else { config.data.clone() };
        let store = open_store(config, &data)?;
        let bus = bus::open(&config.bus, &config.node, &store)?;
        let topics = bus.ensure_topics(Catalog::get().topics()).await?;
        let documents: Arc<dyn runmesh_store::DocumentStore> = Arc::new(store.clone());
        let consumer = Consumer::new(Arc::clone(&bus), Arc::clone(&documents)).await?;
        let (intake, rest) = (CancellationToken::new(), CancellationToken::new());
        let builder = RpcServer::builder(ServerConfig { access: AccessPolicy { token: config.token() } });
        let parts = services::Parts { config, environment, data: &data, roles, store: &store, intake: &intake };
        let services::Built { server, groups, runner_group, runner } = parts.build(builder).await?;

        let mut node = Self {
            server,
            grpc: None,
            http: None,
            topics,
            runner,
            drain: config.shutdown.drain,
            intake,
            rest,
            intake_parts: JoinSet::new(),
            runner_parts: JoinSet::new(),
            parts: JoinSet::new(),
            store,
        };
        for group in groups {
            let (consumer, stop) = (consumer.clone(), node.rest.clone());
            node.parts.spawn(part(group.name.to_string(), async move { consumer.run(group, stop).await }));
        }
        if let Some(group) = runner_group {
            let (consumer, stop) = (consumer.clone(), node.intake.clone());
            node.runner_parts.spawn(part(group.name.to_string(), async move { consumer.run(group, stop).await }));
        }
        if let Some(runner) = node.runner.clone() {
            let stop = node.rest.clone();
            node.parts.spawn(part("leases", async move {
                runner.watch_leases(stop).await;
                Ok::<_, StoreError>(())
            }));
        }
        if roles.has(Role::Relay) && !bus.carries_store() {
            let relay = Relay::new(Arc::new(node.store.clone()), bus, documents).await?;
            let stop = node.rest.clone();
            node.parts.spawn(part("relay", async move { relay.run(stop).await }));
        }
        node.listen(config, roles, listeners, render_metrics)?;
        node.server.readiness().set_ready().await;
        Ok(node)
    }

    fn listen(
        &mut self,
        config: &Config,
        roles: &Roles,
        listeners: Listeners,
        render_metrics: Option<Box<dyn Fn() -> String + Send + Sync>>,
    ) -> Result<(), NodeError> {
        if let Some(listener) = listeners.grpc {
            self.grpc = listener.local_addr().ok();
            let (server, stop, drain) = (self.server.clone(), self.intake.clone(), self.drain);
            self.intake_parts.spawn(part("grpc", server.serve(listener, stop.cancelled_owned(), drain)));
        }
        if let Some(listener) = listeners.http {
            self.http = listener.local_addr().ok();
            let settings = GatewayConfig {
                token: config.token(),
                cors_origins: config.gateway.cors_origins.clone(),
                allowed_hosts: config.gateway.allowed_hosts.clone(),
                heartbeat: config.gateway.heartbeat,
                ..GatewayConfig::default()
            };
            let mut gateway = match &config.gateway.upstream {
                Some(address) => Gateway::new(settings, channel(address)?),
                None if roles.has(Role::Execution) => Gateway::new(settings, self.server.local()),
                None => {
                    let reason = "is needed where the gateway runs without the role execution".to_owned();
                    return Err(ConfigError::Setting { key: "gateway.upstream", reason }.into());
                }
            };
            if let Some(render) = render_metrics {
                gateway = gateway.with_metrics(render);
            }
            let readiness = self.server.readiness();
            gateway = gateway.with_readiness(move || readiness.is_ready());
            let (stop, drain) = (self.intake.clone(), self.drain);
            self.intake_parts.spawn(part("gateway", gateway.serve(listener, stop.cancelled_owned(), drain)));
        }
        Ok(())
    }

    /// A way to the node's services without a socket.
    pub fn local(&self) -> LocalChannel {
        self.server.local()
    }

    /// The address of the gRPC server.
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// The address of the gateway.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// What ensuring the topics did and found.
    pub fn topics(&self) -> &TopicReport {
        &self.topics
    }

    /// Waits until a part of the node ends by itself, which none should.
    pub async fn failed(&mut self) -> NodeError {
        let ended = tokio::select! {
            Some(ended) = self.parts.join_next() => ended,
            Some(ended) = self.intake_parts.join_next() => ended,
            Some(ended) = self.runner_parts.join_next() => ended,
            else => std::future::pending().await,
        };
        let (part, reason) = match ended {
            Ok((part, Ok(()))) => (part, "without a reason".to_owned()),
            Ok((part, Err(reason))) => (part, reason),
            Err(error) => ("a part".to_owned(), error.to_string()),
        };
        NodeError::Part { part, reason }
    }

    /// Ends the node: no new work is let in, running scripts and open calls have the drain time to end, what is left is
    /// ended and recorded, and the store is closed. Takes the drain time and a few seconds at most.
    pub async fn shutdown(mut self) {
        self.server.readiness().set_not_ready().await;
        self.intake.cancel();
        join(&mut self.runner_parts, CUT).await;
        if let Some(runner) = &self.runner {
            runner.drain(self.drain).await;
        }
        join(&mut self.intake_parts, self.drain + CUT).await;
        self.rest.cancel();
        join(&mut self.parts, self.drain + CUT).await;
        drop(self.store);
    }
}

/// A part of the node with its name, so that its end can be told.
async fn part<E: ToString>(
    name: impl Into<String>,
    work: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Part {
    (name.into(), work.await.map_err(|error| error.to_string()))
}

async fn join(parts: &mut JoinSet<Part>, patience: Duration) {
    let all = async {
        while let Some(ended) = parts.join_next().await {
            if let Ok((part, Err(reason))) = ended {
                tracing::warn!(part, reason, "ended with an error");
            }
        }
    };
    if timeout(patience, all).await.is_err() {
        tracing::warn!(parts = parts.len(), "did not end in time; cut");
        parts.shutdown().await;
    }
}

fn open_store(config: &Config, data: &std::path::Path) -> Result<SqliteStore, StoreError> {
    let path = match config.store.uri.strip_prefix("sqlite:") {
        Some(path) => PathBuf::from(path),
        None => data.join("runmesh.db"),
    };
    SqliteStore::open(&SqliteConfig {
        path,
        durability: match config.store.durability {
            Durability::Process => StoreDurability::Process,
            Durability::Power => StoreDurability::Power,
        },
        relayed: bus::is_remote(&config.bus),
    })
}

fn channel(address: &str) -> Result<Channel, ConfigError> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|error| ConfigError::Setting { key: "gateway.upstream", reason: error.to_string() })?;
    Ok(endpoint.connect_lazy())
}
