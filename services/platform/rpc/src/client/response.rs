//! A response as it comes from a server: its status, and its body, which holds the call's places until its end.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::endpoint::{Place, Ticket};
use crate::status;

/// When a call that was lost with its connection may come again.
const COME_AGAIN: Duration = Duration::from_secs(1);

/// The body of a response.
pub(crate) struct Received {
    upstream: String,
    /// The first frame, when it was looked at before its turn.
    first: Option<Frame<Bytes>>,
    body: Incoming,
    /// Let go at the end of the body.
    held: Option<(Place, Ticket)>,
}

impl Received {
    pub(crate) fn new(upstream: String, body: Incoming, place: Place, ticket: Ticket) -> Self {
        Self { upstream, first: None, body, held: Some((place, ticket)) }
    }

    /// Waits for the first frame without taking it. `Some`: it is the end, with this status.
    pub(crate) async fn peek(&mut self) -> Result<Option<Status>, Status> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await.transpose()?;
        let status = frame.as_ref().and_then(Frame::trailers_ref).and_then(Status::from_header_map);
        self.first = frame;
        Ok(status)
    }

    /// The call's ticket, while the body has not ended.
    pub(crate) fn ticket(&mut self) -> Option<&mut Ticket> {
        self.held.as_mut().map(|(_, ticket)| ticket)
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let is_last = match &frame {
            Some(Ok(frame)) => frame.is_trailers(),
            _ => true,
        };
        if is_last {
            this.held = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| lost(&this.upstream, &error))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What was looked at is not in the hint of the rest.
        if self.first.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

/// The status of a response that ends with its headers. `None`: there is more.
pub(crate) fn status_of(code: StatusCode, headers: &HeaderMap) -> Option<Status> {
    if let Some(status) = Status::from_header_map(headers) {
        return Some(status);
    }
    // The mapping that the gRPC protocol has for what is no gRPC server, such as a proxy.
    let grpc = match code {
        StatusCode::OK => return None,
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    Some(Status::new(grpc, format!("the answer is HTTP {code}, and not one of gRPC")))
}

/// The time that a status asks to wait.
pub(crate) fn delay_of(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// What HTTP/2 says of a failure.
fn reason_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a h2::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>() {
            return Some(reason);
        }
        cause = error.source();
    }
    None
}

/// Whether the server said that it did not take the call: it refused the stream, or it goes away and the stream came after
/// the last one that it takes.
pub(crate) fn was_not_taken(error: &hyper::Error) -> bool {
    reason_of(error).is_some_and(|error| {
        error.is_remote()
            && (error.is_go_away() || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)))
    })
}

/// The status of a call that broke off.
pub(crate) fn lost(upstream: &str, error: &hyper::Error) -> Status {
    let reset = reason_of(error).filter(|error| error.is_reset()).and_then(h2::Error::reason);
    tracing::debug!(upstream, %error, cause = error.source().map(ToString::to_string), "a call broke off");
    match reset {
        Some(h2::Reason::CANCEL) => Status::cancelled(format!("{upstream} cancelled the call")),
        Some(h2::Reason::ENHANCE_YOUR_CALM) => {
            let description = format!("{upstream} wants fewer calls");
            status::resource_exhausted("ENHANCE_YOUR_CALM", description, Some(COME_AGAIN))
        }
        Some(h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM) | None => {
            status::unavailable(format!("the connection to {upstream} was lost"), COME_AGAIN)
        }
        Some(reason) => Status::internal(format!("{upstream} broke off the call: {reason}")),
    }
}

/// The status of a call that no server took.
pub(crate) fn unreachable(upstream: &str) -> Status {
    status::unavailable(format!("{upstream} can't be reached"), COME_AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_answer_is_a_status_too() {
        let none = HeaderMap::new();
        assert!(status_of(StatusCode::OK, &none).is_none());
        assert_eq!(status_of(StatusCode::BAD_GATEWAY, &none).unwrap().code(), Code::Unavailable);
        assert_eq!(status_of(StatusCode::NOT_FOUND, &none).unwrap().code(), Code::Unimplemented);
        let refused = status::unavailable("later", Duration::from_secs(7)).into_http::<()>();
        let status = status_of(refused.status(), refused.headers()).unwrap();
        assert_eq!(delay_of(&status), Some(Duration::from_secs(7)));
    }
}
