//! The channel itself.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tower::Service;

use super::{
    address::Addresses,
    budget::RetryBudget,
    call,
    config::UpstreamConfig,
    connect::ConnectError,
    pool::{Pool, Resolve, SystemResolver},
};

/// A channel to the servers of one role. Cheap to clone; a generated client takes it, and so does the gateway. What goes
/// wrong is a status, as if the server had said it.
///
/// - A call goes to the one of two servers at random that has fewer calls. Connections are made when they are needed.
/// - It passes on the caller's deadline, less what has passed.
/// - A call that no server took is made again, at another server where there is one. A call that a server may have carried
///   out is made again only if its method says that this is harmless, or its request has a `request_id`; and nothing is
///   made again once a message of the answer, or the beginning of a stream, has come. A budget bounds all of it.
/// - A server that fails again and again is left out for a time that grows, until it can be connected to and a call to it
///   succeeds. Where all are left out, all are used.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

/// What the clones of an upstream share.
pub(crate) struct Inner {
    pub(crate) name: Arc<str>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) attempts: u32,
    pub(crate) budget: RetryBudget,
    pub(crate) pool: Arc<Pool>,
    // Ends with the last clone.
    _resolving: Option<AbortOnDropHandle<()>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.0.name).field("pool", &self.0.pool).finish_non_exhaustive()
    }
}

impl Upstream {
    /// A channel to these servers. `name` stands for them in metrics, logs and errors. To be called on a tokio runtime.
    pub fn new(name: &str, addresses: &Addresses, config: &UpstreamConfig) -> Self {
        Self::with_resolver(name, addresses, config, Arc::new(SystemResolver))
    }

    /// As [`Upstream::new`], with names resolved by `resolver`.
    pub fn with_resolver(
        name: &str,
        addresses: &Addresses,
        config: &UpstreamConfig,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let name: Arc<str> = name.into();
        let (pool, resolving) = Pool::start(Arc::clone(&name), addresses, config, resolver);
        Self(Arc::new(Inner {
            name,
            timeout: config.timeout,
            attempts: config.attempts.max(1),
            budget: RetryBudget::new(config.retry_share, config.retry_burst),
            pool,
            _resolving: resolving,
        }))
    }

    /// Connects to one of the servers, to find out now whether that is possible.
    ///
    /// # Errors
    ///
    /// The reason of the last one that was tried, when none can be connected to.
    pub async fn check(&self) -> Result<(), Arc<ConnectError>> {
        let mut last = Arc::new(ConnectError::NoAddress(self.0.name.to_string()));
        for endpoint in self.0.pool.known_endpoints().await.iter() {
            match endpoint.place().await {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Service<Request<Body>> for Upstream {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { Ok(call::run(&inner, request).await) })
    }
}
