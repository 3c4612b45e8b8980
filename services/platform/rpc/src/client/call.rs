//! A call from its first attempt to its end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::USER_AGENT, uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use metrics::{counter, histogram};
use tokio::time::{sleep, timeout_at};
use tonic::{Code, Status, body::Body};

use super::{
    attempt::{Next, Outcome, Outgoing, Situation, attempt, next},
    balance::{choose, has_other},
    endpoint::Endpoint,
    response,
    upstream::Inner,
};
use crate::{
    Deadline,
    deadline::{DeadlineBody, exceeded},
    method::{self, Method},
    status,
};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("runmesh/", env!("CARGO_PKG_VERSION")));

/// Makes the call, with as many attempts as it takes and is allowed.
pub(crate) async fn run(upstream: &Inner, request: Request<Body>) -> Response<Body> {
    let mut record = Record::start(&upstream.name);
    let method = method::of(request.uri().path());
    let deadline = match Deadline::of(request.headers()) {
        Ok(Some(deadline)) => Some(deadline),
        // Only a call that is known to end soon is given a time for it.
        Ok(None) if method.is_some_and(|method| !method.is_open_ended()) => upstream.timeout.map(Deadline::after),
        Ok(None) => None,
        Err(status) => return record.refused(status),
    };
    let work = attempts(upstream, request, method, deadline);
    let result = match deadline {
        Some(deadline) => timeout_at(deadline.instant(), work).await.unwrap_or_else(|_| Err(exceeded())),
        None => work.await,
    };
    match result {
        Err(status) => record.refused(status),
        Ok(response) => {
            if let Some(status) = response::status_of(response.status(), response.headers()) {
                record.end(status.code());
            }
            response.map(|body| {
                let body = Body::new(Recorded { body: Body::new(body), record });
                match deadline {
                    Some(deadline) => Body::new(DeadlineBody::new(body, deadline)),
                    None => body,
                }
            })
        }
    }
}

async fn attempts(
    upstream: &Inner,
    request: Request<Body>,
    method: Option<&Method>,
    deadline: Option<Deadline>,
) -> Result<Response<response::Received>, Status> {
    let (mut head, body) = request.into_parts();
    head.headers.entry(USER_AGENT).or_insert(AGENT);
    let mut body = match method {
        Some(method) if !method.takes_stream => Outgoing::Whole(body.collect().await?.to_bytes()),
        _ => Outgoing::Once(Some(body)),
    };
    upstream.budget.deposit();
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let mut made = 0;
    loop {
        let endpoints = upstream.pool.known_endpoints().await;
        let endpoint = choose(&endpoints, &tried).ok_or_else(|| response::unreachable(&upstream.name))?;
        let mut head = head.clone();
        head.uri = addressed(&head.uri, &endpoint)?;
        if let Some(deadline) = deadline {
            deadline.write(&mut head.headers);
        }
        let outcome = attempt(&upstream.name, endpoint.enter(), head, &mut body, method).await;
        let (failure, status) = match outcome {
            Outcome::Answer(response) => return Ok(*response),
            Outcome::Failed(failure, status) => (failure, status),
        };
        upstream.pool.doubt();
        tried.push(endpoint);
        made += 1;
        let situation = Situation {
            is_repeatable: match (&body, method) {
                (Outgoing::Whole(bytes), Some(method)) => method.can_be_repeated(bytes),
                _ => false,
            },
            has_other: has_other(&endpoints, &tried),
            made,
            most: upstream.attempts,
        };
        match next(failure, &body, situation, rand::random()) {
            Next::GiveUp => return Err(status),
            Next::Elsewhere => made -= 1,
            Next::Again(pause) => {
                if deadline.is_some_and(|deadline| pause >= deadline.remaining()) {
                    return Err(status);
                }
                if !upstream.budget.withdraw() {
                    counter!("rpc_client_retries_refused_total", "upstream" => upstream.name.to_string()).increment(1);
                    return Err(status);
                }
                sleep(pause).await;
            }
        }
        let labels = [("upstream", upstream.name.to_string()), ("reason", failure.name().to_owned())];
        counter!("rpc_client_retries_total", &labels).increment(1);
    }
}

/// The URI with the server in it, as HTTP/2 wants it.
fn addressed(uri: &Uri, endpoint: &Endpoint) -> Result<Uri, Status> {
    let target = endpoint.target();
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if target.has_tls { uri::Scheme::HTTPS } else { uri::Scheme::HTTP });
    parts.authority = Some(target.host.to_string().parse().map_err(|error| status::internal(&error))?);
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).map_err(|error| status::internal(&error))
}

/// Counts a call when it ends. Dropped before, it was cancelled.
struct Record {
    upstream: Arc<str>,
    started: Instant,
    is_ended: bool,
}

impl Record {
    fn start(upstream: &Arc<str>) -> Self {
        Self { upstream: Arc::clone(upstream), started: Instant::now(), is_ended: false }
    }

    fn refused(&mut self, status: Status) -> Response<Body> {
        self.end(status.code());
        status.into_http()
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        let upstream = self.upstream.to_string();
        histogram!("rpc_client_duration_seconds", "upstream" => upstream.clone())
            .record(self.started.elapsed().as_secs_f64());
        counter!("rpc_client_calls_total", "upstream" => upstream, "code" => status::code_name(code)).increment(1);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// A response body that tells how the call ended.
struct Recorded {
    body: Body,
    record: Record,
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    this.record.end(status.code());
                }
            }
            Some(Err(status)) => this.record.end(status.code()),
            None => this.record.end(Code::Ok),
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
