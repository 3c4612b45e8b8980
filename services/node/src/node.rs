//! A running node: its services, their groups, its listeners, and an orderly end.

mod services;
mod shared;
mod upstream;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use runmesh_bus::{BusError, Consumer, Relay, TopicReport};
use runmesh_events::Catalog;
use runmesh_gateway::{Gateway, GatewayConfig};
use runmesh_rpc::{AccessPolicy, LocalChannel, RpcServer, ServerConfig, Tls};
use runmesh_runner::{RegistryError, Runner, Sandbox, SandboxError, ToolchainError};
use runmesh_scheduler::SchedulerError;
use runmesh_store::{Lease, StoreError};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::shared::Shared;
use crate::{
    Config, ConfigError, Environment, Role, Roles,
    bus::{self, OpenBus},
    store::{self, Store},
};

/// How long what is cut at a shutdown may take to be gone.
const CUT: Duration = Duration::from_secs(2);

/// How long a start waits for servers that are not available yet.
const SERVERS_PATIENCE: Duration = Duration::from_secs(30);

/// How long it waits between two tries.
const SERVERS_PAUSE: Duration = Duration::from_millis(500);

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

impl NodeError {
    /// Whether the same start may succeed later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) | Self::Scheduler(SchedulerError::Store(error)) | Self::Bus(BusError::Store(error)) => {
                error.is_transient()
            }
            Self::Bus(error) => error.is_transient(),
            _ => false,
        }
    }
}

/// Where a node listens.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For gRPC. `None`: only this process calls.
    pub grpc: Option<TcpListener>,
    /// For HTTP. `None`: no gateway.
    pub http: Option<TcpListener>,
    /// For health alone. `None`: there is none.
    pub health: Option<TcpListener>,
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
        let health = match config.health.listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { grpc: Some(bind(config.grpc.listen).await?), http, health })
    }
}

type Part = (String, Result<(), String>);

/// A running node.
pub struct Node {
    server: RpcServer,
    /// Addresses that the node listens on.
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    health: Option<SocketAddr>,
    topics: TopicReport,
    runner: Option<Runner>,
    sandbox: Option<Arc<dyn Sandbox>>,
    drain: Duration,
    /// Stops what lets new work in: listeners, the runner's group.
    intake: CancellationToken,
    /// Stops everything else.
    rest: CancellationToken,
    intake_parts: JoinSet<Part>,
    /// The runner's group: it has to have stopped before the runs are drained.
    runner_parts: JoinSet<Part>,
    parts: JoinSet<Part>,
    /// The place among the processes that share the store.
    shared: Option<Shared>,
    // Held open until everything else has ended.
    store: Option<Store>,
}

/// Tries again for a while what the store or the bus can't answer yet: servers that are started together with the mesh take a
/// moment.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, NodeError>) -> Result<T, NodeError> {
    let deadline = Instant::now() + SERVERS_PATIENCE;
    loop {
        match attempt().await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tracing::warn!(%error, "waits for the store and the bus");
                sleep(SERVERS_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// The store and the bus of a node that has roles that need them.
struct Backend {
    store: Store,
    bus: OpenBus,
    topics: TopicReport,
    consumer: Consumer,
}

impl Backend {
    async fn open(config: &Config, data: &Path) -> Result<Self, NodeError> {
        patiently(async || Self::try_open(config, data).await).await
    }

    async fn try_open(config: &Config, data: &Path) -> Result<Self, NodeError> {
        let store = store::open(config, data).await?;
        let bus = bus::open(&config.bus, &config.node, store.sqlite.as_ref())?;
        let topics = bus.bus.ensure_topics(Catalog::get().topics()).await?;
        bus::ensure_more(&*bus.bus, &config.replay.topics).await?;
        let consumer = Consumer::new(Arc::clone(&bus.bus), Arc::clone(&store.documents)).await?.of_node(&config.node);
        Ok(Self { store, bus, topics, consumer })
    }

    /// Takes the process's place among those that share the store, if it is shared.
    async fn join_others(&self, config: &Config, roles: &Roles) -> Result<(Option<Shared>, Option<Lease>), NodeError> {
        if !self.store.events.is_shared() {
            return Ok((None, None));
        }
        let (shared, name) = Shared::join(config, roles, &self.store, &self.bus).await?;
        Ok((Some(shared), Some(name)))
    }
}

impl Node {
    fn new(config: &Config, server: RpcServer, intake: CancellationToken, rest: CancellationToken) -> Self {
        Self {
            server,
            grpc: None,
            http: None,
            health: None,
            topics: TopicReport::default(),
            runner: None,
            sandbox: None,
            drain: config.shutdown.drain,
            intake,
            rest,
            intake_parts: JoinSet::new(),
            runner_parts: JoinSet::new(),
            parts: JoinSet::new(),
            shared: None,
            store: None,
        }
    }

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
        let (intake, rest) = (CancellationToken::new(), CancellationToken::new());
        let access = AccessPolicy { token: config.token() };
        let tls = config.tls.load()?;
        let builder = RpcServer::builder(ServerConfig {
            access,
            limits: config.grpc.limits(),
            keep_alive: config.grpc.keep_alive(),
            tls: tls.clone(),
        });
        let mut node = if roles.need_store() {
            let data = if config.data.as_os_str().is_empty() { environment.data_folder() } else { config.data.clone() };
            let backend = Backend::open(config, &data).await?;
            // Before anything is appended.
            let (shared, name) = backend.join_others(config, roles).await?;
            // From now on: a start may take longer than its lease.
            let mut keeping = JoinSet::new();
            if let (Some(shared), Some(name)) = (&shared, name) {
                keeping.spawn(part("name", shared.keep_name(name, rest.clone())));
            }
            let store = &backend.store;
            let bus = &backend.bus.bus;
            let consumer = &backend.consumer;
            let parts =
                services::Parts { config, environment, data: &data, roles, store, bus, consumer, intake: &intake };
            let built = parts.build(builder).await?;
            let mut node = Self::new(config, built.server, intake, rest);
            node.parts = keeping;
            (node.topics, node.runner, node.sandbox) = (backend.topics, built.runner, built.sandbox);
            let faults = config.faults.build();
            for group in built.groups {
                let group = faults.into_group(group);
                let (consumer, stop) = (backend.consumer.clone(), node.rest.clone());
                node.parts.spawn(part(group.name.to_string(), async move { consumer.run(group, stop).await }));
            }
            if let Some(runner) = node.runner.clone() {
                let (consumer, stop) = (backend.consumer.clone(), node.intake.clone());
                let group = faults.into_group(runner.consumer_group());
                node.runner_parts.spawn(part(group.name.to_string(), async move { consumer.run(group, stop).await }));
                let (reconciler, every, stop) = (runner.clone(), config.reconciler.interval, node.rest.clone());
                node.parts.spawn(lasting("reconciler", async move { reconciler.reconcile(every, stop).await }));
                let (leases, stop) = (runner.clone(), node.rest.clone());
                node.parts.spawn(lasting("leases", async move { leases.watch_leases(stop).await }));
                let stop = node.intake.clone();
                node.intake_parts.spawn(lasting("signs of life", async move { runner.keep_announcing(stop).await }));
            }
            if let Some(scheduler) = built.scheduler {
                let (compare, stop) = (config.reconciler.interval, node.rest.clone());
                node.parts.spawn(lasting("scheduler's watch", async move { scheduler.watch(compare, stop).await }));
            }
            if let Some(dlq) = built.dlq {
                let stop = node.rest.clone();
                node.parts.spawn(lasting("dead letters", async move { dlq.run(stop).await }));
            }
            if let Some(replay) = built.replay {
                if let Some(executions) = upstream::executions(config, roles, &node.server, tls.as_ref())? {
                    replay.reach_executions(executions);
                }
                let stop = node.rest.clone();
                node.parts.spawn(lasting("replays", async move { replay.run(stop).await }));
            }
            if let Some(saga) = built.saga {
                let stop = node.rest.clone();
                node.parts.spawn(lasting("saga-timers", async move { saga.run_timers(stop).await }));
            }
            let stop = node.rest.clone();
            if let Some(shared) = &shared {
                if roles.has(Role::Relay) {
                    node.parts.spawn(part("relay", shared.publish_orphans(stop.clone())));
                }
                if let Some(queue) = built.queue {
                    let scheduler = shared.schedule(config, store, backend.consumer, queue, stop);
                    node.parts.spawn(part("scheduler", scheduler));
                }
            } else if roles.has(Role::Relay) && !backend.bus.bus.carries_store() {
                let (events, documents) = (Arc::clone(&store.events), Arc::clone(&store.documents));
                let relay = Relay::new(events, backend.bus.bus, documents).await?;
                node.parts.spawn(part("relay", async move { relay.run(stop).await }));
            }
            (node.shared, node.store) = (shared, Some(backend.store));
            node
        } else {
            Self::new(config, builder.build(), intake, rest)
        };
        node.listen(config, roles, listeners, tls.as_ref(), render_metrics)?;
        node.server.readiness().set_ready().await;
        Ok(node)
    }

    fn listen(
        &mut self,
        config: &Config,
        roles: &Roles,
        listeners: Listeners,
        tls: Option<&Tls>,
        render_metrics: Option<Box<dyn Fn() -> String + Send + Sync>>,
    ) -> Result<(), NodeError> {
        if let Some(listener) = listeners.grpc {
            self.grpc = listener.local_addr().ok();
            let (server, stop, drain) = (self.server.clone(), self.intake.clone(), self.drain);
            self.intake_parts.spawn(part("grpc", server.serve(listener, stop.cancelled_owned(), drain)));
        }
        if let Some(listener) = listeners.health {
            self.health = listener.local_addr().ok();
            // It tells to the end that the node is going away.
            let (server, stop) = (self.server.clone(), self.rest.clone());
            self.parts.spawn(part("health", server.serve_health(listener, stop.cancelled_owned())));
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
            let router = upstream::router(config, roles, &self.server, tls)?;
            let mut gateway = Gateway::new(settings, router);
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

    /// The address of the listener for health alone.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health
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
        if let Some(sandbox) = self.sandbox {
            sandbox.close().await;
        }
        if let Some(shared) = self.shared {
            shared.leave().await;
        }
        drop(self.store);
    }
}

/// A part of the node that goes on until it is stopped.
async fn lasting(name: &str, work: impl Future<Output = ()> + Send + 'static) -> Part {
    work.await;
    (name.to_owned(), Ok(()))
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
