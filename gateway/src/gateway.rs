//! The gateway as a whole: its own paths around the dispatch, and a server for them.

use std::{fmt, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, Method, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use runmesh_rpc::{AccessPolicy, ConnectionSettings, Protocols, serve_connections};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body as RpcBody};
use tower::{BoxError, Service, ServiceExt as _, util::BoxCloneSyncService};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    config::GatewayConfig, dispatch::dispatch, guard, openapi, page, problem::Problem, routes::RouteTable,
    sse::SseSettings,
};

/// A transport for gRPC calls.
pub(crate) type Upstream = BoxCloneSyncService<http::Request<RpcBody>, http::Response<RpcBody>, Status>;

type Render = Arc<dyn Fn() -> String + Send + Sync>;
type IsReady = Arc<dyn Fn() -> bool + Send + Sync>;

/// What every request needs.
pub(crate) struct Inner {
    pub(crate) config: GatewayConfig,
    pub(crate) policy: AccessPolicy,
    pub(crate) routes: RouteTable,
    pub(crate) upstream: Upstream,
    pub(crate) sse: SseSettings,
    openapi: serde_json::Value,
    metrics: Option<Render>,
    is_ready: Option<IsReady>,
}

/// The gateway.
pub struct Gateway {
    inner: Inner,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway to the services behind `upstream`: a [`LocalChannel`](runmesh_rpc::LocalChannel), an
    /// [`Upstream`](runmesh_rpc::client::Upstream), or a [`Router`](runmesh_rpc::client::Router) to several of them.
    ///
    /// # Panics
    ///
    /// When the contract's descriptors declare a route that can't be served. Tests read them all.
    pub fn new<S, B>(config: GatewayConfig, upstream: S) -> Self
    where
        S: Service<http::Request<RpcBody>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let routes = match RouteTable::read(runmesh_proto::descriptors()) {
            Ok(routes) => routes,
            Err(bad) => panic!("{}: {}", bad.method, bad.problem),
        };
        let upstream = upstream
            .map_response(|response| response.map(RpcBody::new))
            .map_err(|error| Status::from_error(error.into()));
        let sse = SseSettings {
            heartbeat: config.heartbeat,
            retry: config.retry,
            first_message_wait: config.first_message_wait,
            draining: CancellationToken::new(),
        };
        let inner = Inner {
            policy: AccessPolicy { token: config.token.clone() },
            openapi: openapi::document(&routes),
            routes,
            upstream: BoxCloneSyncService::new(upstream),
            sse,
            metrics: None,
            is_ready: None,
            config,
        };
        Self { inner }
    }

    /// Serves what `render` returns, Prometheus' text format, at `/metrics`.
    pub fn with_metrics(mut self, render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.inner.metrics = Some(Arc::new(render));
        self
    }

    /// Makes `/healthz` answer 503 while `is_ready` is false.
    pub fn with_readiness(mut self, is_ready: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.inner.is_ready = Some(Arc::new(is_ready));
        self
    }

    /// The gateway as a router, for a server of one's own. Its streams end with their clients.
    pub fn router(self) -> Router {
        let cors = cors(&self.inner.config);
        Router::new()
            .route("/", get(page::page))
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics))
            .route("/openapi.json", get(document))
            .fallback(dispatch)
            .with_state(Arc::new(self.inner))
            .layer(cors)
    }

    /// Serves HTTP/1.1 and HTTP/2 until `shutdown` is ready. Then `/healthz` says so, streams of events end with one that
    /// tells their clients to connect again, calls and downloads in flight have `drain` to end, and what is left is cut.
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
        let draining = self.inner.sse.draining.clone();
        let shutdown = async move {
            shutdown.await;
            draining.cancel();
        };
        let settings = ConnectionSettings::plain(Protocols::Http1And2);
        serve_connections(listener, self.router(), settings, shutdown, drain).await
    }
}

fn cors(config: &GatewayConfig) -> CorsLayer {
    let origin = if config.cors_origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(config.cors_origins.iter().filter_map(|origin| origin.parse().ok()))
    };
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            CONTENT_TYPE,
            AUTHORIZATION,
            HeaderName::from_static("last-event-id"),
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("grpc-timeout"),
        ])
        .expose_headers([CONTENT_DISPOSITION, RETRY_AFTER, WWW_AUTHENTICATE])
        .max_age(Duration::from_secs(3600))
}

async fn healthz(State(inner): State<Arc<Inner>>) -> Response {
    let ready = !inner.sse.draining.is_cancelled() && inner.is_ready.as_ref().is_none_or(|is_ready| is_ready());
    let (status, text) =
        if ready { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") };
    (status, [(CACHE_CONTROL, "no-store")], text).into_response()
}

async fn metrics(State(inner): State<Arc<Inner>>, method: Method, uri: http::Uri, headers: HeaderMap) -> Response {
    if let Err(problem) = guard::check(&inner.config, &method, &uri, &headers) {
        return problem.into_response();
    }
    if let Err(status) = inner.policy.check_token(&headers) {
        return Problem::from_status(&status).into_response();
    }
    match &inner.metrics {
        Some(render) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render()).into_response(),
        None => Problem::http(StatusCode::NOT_FOUND, "PATH_NOT_FOUND", "metrics are not in use").into_response(),
    }
}

async fn document(State(inner): State<Arc<Inner>>) -> Response {
    Json(&inner.openapi).into_response()
}
