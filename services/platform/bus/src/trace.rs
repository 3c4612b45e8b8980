//! The trace of an event, continued in the span that handles it.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use runmesh_events::TraceParent;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Makes `span` part of the trace that `traceparent` names, and returns its own context: that of the recorded span where
/// spans are recorded, `traceparent` itself otherwise.
pub fn enter(span: &Span, traceparent: &str) -> TraceParent {
    if let Some(parent) = TraceParent::parse(traceparent) {
        let flags = if parent.sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let context = SpanContext::new(
            TraceId::from_bytes(parent.trace_id().to_be_bytes()),
            SpanId::from_bytes(parent.span_id().to_be_bytes()),
            flags,
            true,
            TraceState::default(),
        );
        // Fails only where no spans are recorded.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(context));
    }
    let context = span.context();
    let recorded = context.span().span_context().clone();
    TraceParent::from_ids(
        u128::from_be_bytes(recorded.trace_id().to_bytes()),
        u64::from_be_bytes(recorded.span_id().to_bytes()),
        recorded.is_sampled(),
    )
    .unwrap_or_else(|| TraceParent::passed_on(traceparent))
}
