//! Turns calls away when the server has as many as it can take, before they cost anything.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::{BoxFuture, Either, Ready, ready};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{access::is_exempt, method, status};

/// The reason in the error of a call that was turned away.
pub const SERVER_OVERLOADED: &str = "SERVER_OVERLOADED";

/// When a call that was turned away may come again: at a random time between these, so that not all come at once.
const COME_AGAIN: std::ops::Range<f64> = 0.5..1.5;

/// How much a server takes on at the same time. What is beyond is RESOURCE_EXHAUSTED at once, with the time to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls that are work: unary ones, those aside that wait for something to happen.
    pub calls: usize,
    /// Open streams, and unary calls that wait for something to happen.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls: 1024, streams: 16_384 }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LimitLayer {
    limits: Limits,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl LimitLayer {
    pub(crate) fn new(limits: Limits) -> Self {
        let places = |number: usize| Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)));
        Self { limits, calls: places(limits.calls), streams: places(limits.streams) }
    }

    /// A place for a call of this path.
    fn enter(&self, path: &str) -> Result<OwnedSemaphorePermit, Status> {
        let is_stream = method::of(path).is_some_and(method::Method::is_open_ended);
        let (places, limit, kind, what) = if is_stream {
            (&self.streams, self.limits.streams, "stream", "streams are open")
        } else {
            (&self.calls, self.limits.calls, "call", "calls are in hand")
        };
        Arc::clone(places).try_acquire_owned().map_err(|_| {
            counter!("rpc_server_shed_total", "kind" => kind).increment(1);
            let wait = Duration::from_secs_f64(rand::random_range(COME_AGAIN));
            let description = format!("{limit} {what}, which is the most that this server takes");
            status::resource_exhausted(SERVER_OVERLOADED, description, Some(wait))
        })
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = LimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LimitService { inner, limits: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LimitService<S> {
    inner: S,
    limits: LimitLayer,
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for LimitService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Either<S::Future, Ready<Answer>>, BoxFuture<'static, Answer>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Whoever asks how the server is must hear it most of all when it is busy.
        if is_exempt(request.uri().path()) {
            return Either::Left(Either::Left(self.inner.call(request)));
        }
        match self.limits.enter(request.uri().path()) {
            Err(status) => Either::Left(Either::Right(ready(Ok(status.into_http())))),
            Ok(place) => {
                let call = self.inner.call(request);
                Either::Right(Box::pin(async move {
                    let response = call.await?;
                    Ok(response.map(|body| Body::new(Placed { body, _place: place })))
                }))
            }
        }
    }
}

/// A response body that keeps the call's place until its end.
struct Placed {
    body: Body,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Placed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    const CALL: &str = "/runmesh.execution.v1.ExecutionService/GetExecution";
    const WAIT: &str = "/runmesh.execution.v1.ExecutionService/WaitExecution";
    const WATCH: &str = "/runmesh.execution.v1.ExecutionService/WatchExecution";

    #[tokio::test]
    async fn calls_and_streams_have_places_of_their_own_until_their_bodies_end() {
        let mut service = LimitLayer::new(Limits { calls: 1, streams: 2 })
            .layer(tower::service_fn(|_: Request<Body>| async { Ok(Response::new(Body::new("x".to_owned()))) }));
        let mut call = |path: &str| service.call(Request::get(path).body(Body::empty()).unwrap());
        let refused = |response: &Response<Body>| Status::from_header_map(response.headers());

        let (first, watch, wait) = (call(CALL).await.unwrap(), call(WATCH).await.unwrap(), call(WAIT).await.unwrap());
        for taken in [&first, &watch, &wait] {
            assert!(refused(taken).is_none());
        }
        for path in [CALL, WATCH, WAIT] {
            let status = refused(&call(path).await.unwrap()).unwrap();
            assert_eq!(status.code(), Code::ResourceExhausted, "{path}");
            assert_eq!(status.get_details_error_info().unwrap().reason, SERVER_OVERLOADED);
            let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap().as_secs_f64();
            assert!(COME_AGAIN.contains(&wait), "{wait}");
        }
        assert!(refused(&call("/grpc.health.v1.Health/Check").await.unwrap()).is_none());
        drop((first, wait));
        assert!(refused(&call(CALL).await.unwrap()).is_none(), "the place is free again");
        assert!(refused(&call(WATCH).await.unwrap()).is_none(), "the place is free again");
    }
}
