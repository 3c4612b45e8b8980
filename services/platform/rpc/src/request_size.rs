//! The error for a request that is too large.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::{TryFutureExt as _, future::MapOk};
use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::status;

/// The greatest size of a request message in bytes (8 MiB). tonic has the limit in each generated server, so a service
/// sets it there: `ExecutionServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES)`.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;

/// The reason in the error for a request that is too large.
pub const REQUEST_TOO_LARGE: &str = "REQUEST_TOO_LARGE";

/// Turns tonic's OUT_OF_RANGE for an oversized request into RESOURCE_EXHAUSTED, as other gRPC servers answer, with a
/// reason that programs can read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSizeLayer;

impl<S> Layer<S> for RequestSizeLayer {
    type Service = RequestSizeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestSizeService { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RequestSizeService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for RequestSizeService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = MapOk<S::Future, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.inner.call(request).map_ok(rename as fn(_) -> _)
    }
}

fn rename(response: Response<Body>) -> Response<Body> {
    // The error is found before the handler runs, so it is in the headers, and the header is there for errors only.
    if !response.headers().contains_key("grpc-status") {
        return response;
    }
    match Status::from_header_map(response.headers()) {
        Some(found) if found.code() == Code::OutOfRange => match sizes(found.message()) {
            Some((size, limit)) => {
                let description = format!("the request has {size} bytes, the limit is {limit} bytes");
                status::resource_exhausted(REQUEST_TOO_LARGE, description, None).into_http()
            }
            None => response,
        },
        _ => response,
    }
}

/// The size and the limit in tonic's message; a test holds it to the version in use.
fn sizes(message: &str) -> Option<(&str, &str)> {
    let rest = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (size, rest) = rest.split_once(" bytes, the limit is: ")?;
    Some((size, rest.strip_suffix(" bytes")?))
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn only_the_error_for_the_size_is_renamed() {
        let text = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
        let renamed = rename(Status::out_of_range(text).into_http());
        let renamed = Status::from_header_map(renamed.headers()).unwrap();
        assert_eq!(renamed.code(), Code::ResourceExhausted);
        assert_eq!(renamed.message(), "the request has 9 bytes, the limit is 8 bytes");
        assert_eq!(renamed.get_details_error_info().unwrap().reason, REQUEST_TOO_LARGE);

        let other = rename(status::out_of_range("cursor", "is beyond the end").into_http());
        assert_eq!(Status::from_header_map(other.headers()).unwrap().code(), Code::OutOfRange);
    }
}
