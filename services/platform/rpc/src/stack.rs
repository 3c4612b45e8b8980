//! The layers that every call passes, in one place.

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{body::Body, service::Routes};
use tower::{Service, ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    AccessPolicy, Limits, access::AccessLayer, deadline::DeadlineLayer, limit::LimitLayer, observe::ObserveLayer,
    request_size::RequestSizeLayer,
};

/// A client's way to the services of this process, without a socket. Cheap to clone; a generated client takes it:
/// `ExecutionServiceClient::new(server.local())`. Calls pass the same layers as those from the network.
#[derive(Clone)]
pub struct LocalChannel(BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>);

impl LocalChannel {
    /// The layers around the routes, outermost first. Who may not call takes nobody's place, so access is before limits.
    pub(crate) fn around(routes: Routes, access: AccessPolicy, limits: Limits) -> Self {
        let stack = ServiceBuilder::new()
            .layer(ObserveLayer)
            .layer(AccessLayer(Arc::new(access)))
            .layer(LimitLayer::new(limits))
            .layer(DeadlineLayer)
            .layer(RequestSizeLayer)
            .service(routes.prepare());
        Self(BoxCloneSyncService::new(stack))
    }
}

impl fmt::Debug for LocalChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalChannel")
    }
}

impl Service<Request<Body>> for LocalChannel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}
