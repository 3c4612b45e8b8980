//! A span and the metrics of each call.

use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use metrics::{counter, gauge, histogram};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};

use crate::{status, trace};

/// The outermost layer: it sees every call, also those that other layers refuse.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObserveLayer;

impl<S> Layer<S> for ObserveLayer {
    type Service = ObserveService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ObserveService { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ObserveService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for ObserveService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut call = Call::start(request.uri().path());
        let trace = trace::adopt(&call.span, request.headers());
        request.extensions_mut().insert(trace);
        let span = call.span.clone();
        // The call's own future is made inside the span too, since a service may do work in `call`.
        let handler = span.in_scope(|| self.inner.call(request));
        let handler = async move {
            let response = match AssertUnwindSafe(handler).catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(panic) => status::internal_text(&format!("panic: {}", panic_text(panic.as_ref()))).into_http(),
            };
            if let Some(code) = code_of(response.headers()) {
                call.end(code);
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(ObservedBody { body, call })))
        };
        Box::pin(handler.instrument(span))
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

/// The code in headers or trailers.
fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// One call, from its arrival to its last byte. Dropped before [`Call::end`], it counts as cancelled.
struct Call {
    service: String,
    method: String,
    started: Instant,
    span: Span,
    ended: bool,
}

impl Call {
    fn start(path: &str) -> Self {
        let (service, method) = names(path);
        let span = tracing::info_span!(
            "rpc",
            otel.name = %path.trim_start_matches('/'),
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system = "grpc",
            rpc.service = %service,
            rpc.method = %method,
            rpc.grpc.status_code = Empty,
        );
        gauge!("rpc_server_active", "service" => service.clone(), "method" => method.clone()).increment(1.0);
        Self { service, method, started: Instant::now(), span, ended: false }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let elapsed = self.started.elapsed();
        let code_name = status::code_name(code);
        self.span.record("rpc.grpc.status_code", i32::from(code));
        if matches!(code, Code::Internal | Code::Unknown | Code::DataLoss | Code::Unavailable | Code::DeadlineExceeded)
        {
            self.span.record("otel.status_code", "ERROR");
        }
        let (service, method) = (&self.service, &self.method);
        self.span.in_scope(|| tracing::debug!(code = code_name, ?elapsed, "call ended"));
        gauge!("rpc_server_active", "service" => service.clone(), "method" => method.clone()).decrement(1.0);
        counter!("rpc_server_calls_total", "service" => service.clone(), "method" => method.clone(), "code" => code_name)
            .increment(1);
        histogram!("rpc_server_duration_seconds", "service" => service.clone(), "method" => method.clone())
            .record(elapsed.as_secs_f64());
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Service and method of a path. Names that are in no descriptor become `unknown`, or callers could make up any number of
/// metric series.
fn names(path: &str) -> (String, String) {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    let builtin = service == "grpc.health.v1.Health" || service.starts_with("grpc.reflection.v1");
    let known = runmesh_proto::descriptors()
        .get_service_by_name(service)
        .is_some_and(|found| found.methods().any(|m| m.name() == method));
    match (known, builtin && matches!(method, "Check" | "Watch" | "List" | "ServerReflectionInfo")) {
        (false, false) => ("unknown".to_owned(), "unknown".to_owned()),
        _ => (service.to_owned(), method.to_owned()),
    }
}

/// A response body that tells its call how it ended, and is polled inside the call's span.
struct ObservedBody {
    body: Body,
    call: Call,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let span = this.call.span.clone();
        let frame = ready!(span.in_scope(|| Pin::new(&mut this.body).poll_frame(cx)));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code_of) {
                    this.call.end(code);
                }
            }
            Some(Err(status)) => this.call.end(status.code()),
            None => this.call.end(Code::Ok),
        }
        Poll::Ready(frame)
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
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use runmesh_events::TraceParent;

    use super::*;

    #[test]
    fn made_up_names_share_one_series() {
        let known = "/runmesh.execution.v1.ExecutionService/GetExecution";
        assert_eq!(names(known), ("runmesh.execution.v1.ExecutionService".into(), "GetExecution".into()));
        assert_eq!(names("/runmesh.execution.v1.ExecutionService/Nope").1, "unknown");
        assert_eq!(names("/a/b/c").0, "unknown");
        assert_eq!(names("").0, "unknown");
        assert_eq!(names("/grpc.health.v1.Health/Check").1, "Check");
    }

    #[tokio::test]
    async fn calls_are_counted_by_their_end_and_carry_their_trace() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let mut service = ObserveLayer.layer(tower::service_fn(|request: Request<Body>| async move {
            assert!(request.extensions().get::<TraceParent>().is_some());
            match request.uri().path() {
                "/panic" => panic!("on purpose"),
                "/refused" => Ok(Status::not_found("no").into_http()),
                _ => Ok(Response::new(Body::new(http_body_util::Full::from("left unread")))),
            }
        }));
        let mut call = |path: &str| service.call(Request::get(path).body(Body::empty()).unwrap());
        let response = call("/panic").await.unwrap();
        assert_eq!(code_of(response.headers()), Some(Code::Internal));
        call("/refused").await.unwrap();
        drop(call("/abandoned").await.unwrap());

        let mut codes = Vec::new();
        let mut active = None;
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            match (key.key().name(), value) {
                ("rpc_server_calls_total", DebugValue::Counter(count)) => {
                    let code = key.key().labels().find(|label| label.key() == "code").unwrap().value().to_owned();
                    codes.push((code, count));
                }
                ("rpc_server_active", DebugValue::Gauge(value)) => active = Some(value.into_inner()),
                _ => {}
            }
        }
        codes.sort();
        let one = |code: &str| (code.to_owned(), 1);
        assert_eq!(codes, [one("CANCELLED"), one("INTERNAL"), one("NOT_FOUND")]);
        assert_eq!(active, Some(0.0));
    }
}
