//! The trace context of a call, between the wire and the tracing span.

use http::{HeaderMap, HeaderValue};
use runmesh_events::TraceParent;
use tracing::Span;

/// The header that carries the context, in gRPC metadata as in HTTP.
const TRACEPARENT: &str = "traceparent";

/// The trace context of the call: its own piece of the caller's trace, or of a new one.
pub fn trace_of<T>(request: &tonic::Request<T>) -> TraceParent {
    request.extensions().get::<TraceParent>().copied().unwrap_or_else(|| {
        let header = request.metadata().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        TraceParent::passed_on(header.unwrap_or_default())
    })
}

/// Makes `span` a part of the trace that the headers name, and returns its context in that trace.
pub(crate) fn adopt(span: &Span, headers: &HeaderMap) -> TraceParent {
    let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    TraceParent::adopt(span, header)
}

/// The context of the current span. `None` when OpenTelemetry is not in use.
pub(crate) fn of_current_span() -> Option<TraceParent> {
    TraceParent::of_span(&Span::current())
}

/// Writes the context to the headers of a call.
pub(crate) fn inject(trace: &TraceParent, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(trace.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_recorded_span_the_callers_context_is_passed_on() {
        let parent = TraceParent::new_root();
        let mut headers = HeaderMap::new();
        inject(&parent, &mut headers);
        let own = adopt(&Span::none(), &headers);
        assert_eq!(own, parent);

        let mut request = tonic::Request::new(());
        request.metadata_mut().insert(TRACEPARENT, parent.to_string().parse().unwrap());
        assert_eq!(trace_of(&request).trace_id(), parent.trace_id());
        request.extensions_mut().insert(own);
        assert_eq!(trace_of(&request), own);
    }
}
