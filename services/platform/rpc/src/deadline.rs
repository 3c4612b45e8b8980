//! Deadlines of calls: ends calls at what the caller gave in `grpc-timeout`, and passes on what is left of it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::status;

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// When a call has to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline that `grpc-timeout` in the headers of a call that comes now stands for. `None`: there is none.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT when the header is not of the protocol's form.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        timeout_of(headers).map(|timeout| timeout.map(Self::after))
    }

    /// This time from now.
    pub fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    /// What is left of it. Zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Writes what is left as `grpc-timeout`.
    pub fn write(self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::try_from(timeout_text(self.remaining())) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }

    /// The moment.
    pub(crate) fn instant(self) -> Instant {
        self.0
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DeadlineService<S> {
    inner: S,
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for DeadlineService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Answer>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let deadline = match Deadline::of(request.headers()) {
            Ok(None) => return Either::Left(self.inner.call(request)),
            Ok(Some(deadline)) => deadline,
            Err(status) => return Either::Right(Box::pin(async move { Ok(status.into_http()) })),
        };
        let call = self.inner.call(request);
        Either::Right(Box::pin(async move {
            match timeout_at(deadline.instant(), call).await {
                Ok(Ok(response)) => Ok(response.map(|body| Body::new(DeadlineBody::new(body, deadline)))),
                Ok(Err(never)) => match never {},
                Err(_) => Ok(exceeded().into_http()),
            }
        }))
    }
}

/// The error of a call whose deadline has passed.
pub(crate) fn exceeded() -> Status {
    status::deadline_exceeded("the call's deadline has passed")
}

/// Reads the header: up to eight digits and a unit, as the gRPC protocol has it.
fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let parse = || {
        let text = value.to_str().ok()?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        match unit {
            "H" => Some(Duration::from_secs(number * 3600)),
            "M" => Some(Duration::from_secs(number * 60)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    };
    parse().map(Some).ok_or_else(|| {
        status::invalid_argument(GRPC_TIMEOUT, "is not a number of up to eight digits and one of the units H M S m u n")
    })
}

/// The header's text for a time: the finest unit in which it has at most eight digits.
fn timeout_text(timeout: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let units = [(timeout.as_micros(), 'u'), (timeout.as_millis(), 'm'), (timeout.as_secs().into(), 'S')];
    match units.into_iter().find(|(number, _)| *number <= MOST) {
        Some((number, unit)) => format!("{number}{unit}"),
        None => format!("{}H", (timeout.as_secs() / 3600).min(99_999_999)),
    }
}

/// A response body that ends with DEADLINE_EXCEEDED at the deadline.
pub(crate) struct DeadlineBody {
    /// `None` once it has ended.
    body: Option<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl DeadlineBody {
    /// Ends `body` at the deadline.
    pub(crate) fn new(body: Body, deadline: Deadline) -> Self {
        Self { body: Some(body), deadline: Box::pin(sleep_until(deadline.instant())) }
    }
}

impl http_body::Body for DeadlineBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        // The deadline first: a stream that always has a message ready must end too.
        if this.deadline.as_mut().poll(cx).is_ready() {
            this.body = None;
            let mut trailers = HeaderMap::new();
            return match exceeded().add_header(&mut trailers) {
                Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Err(status) => Poll::Ready(Some(Err(status))),
            };
        }
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn the_header_is_read_as_the_protocol_has_it() {
        let read =
            |text: &str| timeout_of(&[(GRPC_TIMEOUT.parse().unwrap(), text.parse().unwrap())].into_iter().collect());
        assert_eq!(read("5S").unwrap(), Some(Duration::from_secs(5)));
        assert_eq!(read("100m").unwrap(), Some(Duration::from_millis(100)));
        assert_eq!(read("99999999H").unwrap(), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "5s", "-5S", "123456789S", "+1S"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_is_written_in_the_finest_unit_that_fits_and_never_as_more_than_it_is() {
        for (time, text) in [
            (Duration::from_millis(1500), "1500000u"),
            (Duration::from_nanos(1), "0u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(u64::MAX), "99999999H"),
        ] {
            assert_eq!(timeout_text(time), text);
            let headers = [(GRPC_TIMEOUT.parse().unwrap(), text.parse().unwrap())].into_iter().collect();
            assert!(timeout_of(&headers).unwrap().unwrap() <= time, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_passed_on_is_what_is_left() {
        let mut headers: HeaderMap = [(GRPC_TIMEOUT.parse().unwrap(), "2S".parse().unwrap())].into_iter().collect();
        let deadline = Deadline::of(&headers).unwrap().unwrap();
        tokio::time::advance(Duration::from_millis(500)).await;
        deadline.write(&mut headers);
        assert_eq!(headers[GRPC_TIMEOUT], "1500000u");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_and_streams_end_at_the_deadline() {
        let request = |path: &str| Request::get(path).header(GRPC_TIMEOUT, "50m").body(Body::empty()).unwrap();
        let mut service = DeadlineLayer.layer(tower::service_fn(|request: Request<Body>| async move {
            if request.uri().path() == "/unary" {
                std::future::pending::<()>().await;
            }
            let stream = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
            Ok(Response::new(Body::new(http_body_util::StreamBody::new(stream))))
        }));
        let response = service.call(request("/unary")).await.unwrap();
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), tonic::Code::DeadlineExceeded);

        let mut body = service.call(request("/stream")).await.unwrap().into_body();
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), tonic::Code::DeadlineExceeded);
        assert!(body.frame().await.is_none());
    }
}
