//! Sends each call to where its service is.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::body::Body;
use tower::{Service, ServiceExt as _, util::BoxCloneSyncService};

use crate::status;

type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Collects the ways of a [`Router`].
#[derive(Default)]
pub struct RouterBuilder {
    routes: HashMap<String, Transport>,
    rest: Option<Transport>,
}

/// A transport that sends each call the way of its service. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<RouterBuilder>);

impl RouterBuilder {
    /// Sends calls of this service (`package.Service`) this way.
    pub fn route<T>(mut self, service: &str, transport: T) -> Self
    where
        T: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        T::Future: Send + 'static,
    {
        self.routes.insert(service.to_owned(), BoxCloneSyncService::new(transport));
        self
    }

    /// Sends calls of all other services this way.
    pub fn rest<T>(mut self, transport: T) -> Self
    where
        T: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        T::Future: Send + 'static,
    {
        self.rest = Some(BoxCloneSyncService::new(transport));
        self
    }

    /// The router.
    pub fn build(self) -> Router {
        Router(Arc::new(self))
    }
}

impl Router {
    /// Starts to put a router together.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::default()
    }

    fn way(&self, path: &str) -> Option<Transport> {
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        self.0.routes.get(service).or(self.0.rest.as_ref()).cloned()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("services", &self.0.routes.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RouterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterBuilder").field("services", &self.routes.keys()).finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.way(request.uri().path()) {
            Some(transport) => Box::pin(transport.oneshot(request)),
            None => {
                let status = status::unimplemented("this mesh has no address for the service");
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[tokio::test]
    async fn a_call_goes_where_its_service_is() {
        let says = |text: &'static str| {
            tower::service_fn(move |_: Request<Body>| async move { Ok(Response::new(Body::new(text.to_owned()))) })
        };
        let said = async |router: &Router, path: &str| {
            let request = Request::post(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            match Status::from_header_map(response.headers()) {
                Some(status) => format!("{:?}", status.code()),
                None => {
                    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
                    String::from_utf8(body.to_vec()).unwrap()
                }
            }
        };
        let some = Router::builder().route("a.A", says("one")).build();
        assert_eq!(said(&some, "/a.A/M").await, "one");
        assert_eq!(said(&some, "/a.AB/M").await, format!("{:?}", Code::Unimplemented));
        let all = Router::builder().route("a.A", says("one")).rest(says("rest")).build();
        assert_eq!(said(&all, "/a.A/M").await, "one");
        assert_eq!(said(&all, "/b.B/M").await, "rest");
    }
}
