//! The gRPC server: services, health and reflection behind the common layers.

use std::{convert::Infallible, io, time::Duration};

use futures::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{net::TcpListener, task::unconstrained};
use tonic::{
    body::Body,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tower::{Service, ServiceExt as _};

use crate::{
    AccessPolicy, ConnectionSettings, KeepAlive, Limits, LocalChannel, Protocols, Readiness, Tls,
    listen::serve_connections,
};

/// The most connections of the listener for health alone: a probe has one, for a moment.
const HEALTH_CONNECTIONS: usize = 64;

/// The settings of a server.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// Who may call.
    pub access: AccessPolicy,
    /// How much it takes on at the same time.
    pub limits: Limits,
    /// When its clients are asked whether they are still there.
    pub keep_alive: KeepAlive,
    /// TLS with this certificate. `None`: plain.
    pub tls: Option<Tls>,
}

/// Collects the services of a server.
#[derive(Debug)]
pub struct RpcServerBuilder {
    config: ServerConfig,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
}

impl RpcServerBuilder {
    /// Adds a generated server. Its greatest request size is its own setting; see
    /// [`MAX_REQUEST_BYTES`](crate::MAX_REQUEST_BYTES).
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.services.push(S::NAME);
        self
    }

    /// The server. It is not ready until [`Readiness::set_ready`].
    pub fn build(mut self) -> RpcServer {
        let (reporter, health) = tonic_health::server::health_reporter();
        self.routes.add_service(health.clone());
        self.add_reflection();
        let readiness = Readiness::new(reporter, self.services);
        // The reporter starts with SERVING. Its lock is free here, so the report is done at once.
        let _ = unconstrained(readiness.set_not_ready()).now_or_never();
        let ServerConfig { access, limits, keep_alive, tls } = self.config;
        let around = |routes| LocalChannel::around(routes, access.clone(), limits);
        let (local, health) = (around(self.routes.routes()), around(Routes::new(health)));
        RpcServer { local, health, readiness, keep_alive, tls }
    }

    #[allow(clippy::expect_used, reason = "the descriptors are built in; tests build a server")]
    fn add_reflection(&mut self) {
        // One builder makes one service, so each version has its own.
        let configure = |own: &'static str| {
            let mut builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(runmesh_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name(own)
                .with_service_name("grpc.health.v1.Health");
            // Only what this server has: a role may leave services of the contract to others.
            for service in &self.services {
                builder = builder.with_service_name(*service);
            }
            builder
        };
        let v1 = configure("grpc.reflection.v1.ServerReflection").build_v1();
        let v1alpha = configure("grpc.reflection.v1alpha.ServerReflection").build_v1alpha();
        self.routes.add_service(v1.expect("the descriptors are well-formed"));
        self.routes.add_service(v1alpha.expect("the descriptors are well-formed"));
    }
}

/// A gRPC server.
#[derive(Debug, Clone)]
pub struct RpcServer {
    local: LocalChannel,
    /// Health and nothing else.
    health: LocalChannel,
    readiness: Readiness,
    keep_alive: KeepAlive,
    tls: Option<Tls>,
}

impl RpcServer {
    /// Starts to put a server together.
    pub fn builder(config: ServerConfig) -> RpcServerBuilder {
        RpcServerBuilder { config, routes: Routes::builder(), services: Vec::new() }
    }

    /// A way to the services without a socket. It works whether or not [`RpcServer::serve`] runs.
    pub fn local(&self) -> LocalChannel {
        self.local.clone()
    }

    /// Says whether the services are ready.
    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Serves until `shutdown` is ready: then health says NOT_SERVING, no connection is accepted, clients are told to go
    /// away, calls in flight have `drain` to end, and what is left is cut.
    ///
    /// # Errors
    ///
    /// When the listener is not bound.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
        drain: Duration,
    ) -> io::Result<()> {
        let readiness = self.readiness;
        let shutdown = async move {
            shutdown.await;
            readiness.set_not_ready().await;
        };
        let service = self.local.map_request(|request: Request<Incoming>| request.map(Body::new));
        let plain = ConnectionSettings::plain(Protocols::Http2);
        let settings = ConnectionSettings { keep_alive: self.keep_alive, tls: self.tls, ..plain };
        serve_connections(listener, service, settings, shutdown, drain).await
    }

    /// Serves `grpc.health.v1.Health` alone, without TLS, until `shutdown` is ready: for probes that speak no TLS.
    ///
    /// # Errors
    ///
    /// When the listener is not bound.
    pub async fn serve_health(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let service = self.health.map_request(|request: Request<Incoming>| request.map(Body::new));
        let plain = ConnectionSettings::plain(Protocols::Http2);
        let settings = ConnectionSettings { keep_alive: self.keep_alive, most: Some(HEALTH_CONNECTIONS), ..plain };
        serve_connections(listener, service, settings, shutdown, Duration::ZERO).await
    }
}
