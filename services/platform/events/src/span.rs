//! The trace of an event or a call, continued in the span of the work that it leads to.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::TraceParent;

impl TraceParent {
    /// Makes `span` part of the trace that `header` names, and returns the context of the work: that of the span where
    /// spans are recorded, `header` passed on otherwise.
    pub fn adopt(span: &Span, header: &str) -> Self {
        if let Some(parent) = Self::parse(header) {
            let flags = if parent.sampled() { TraceFlags::SAMPLED } else { TraceFlags::default() };
            let remote = SpanContext::new(
                TraceId::from_bytes(parent.trace_id().to_be_bytes()),
                SpanId::from_bytes(parent.span_id().to_be_bytes()),
                flags,
                true,
                TraceState::default(),
            );
            // Fails only where no spans are recorded, and then there is no span to set the parent of.
            let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote));
        }
        Self::of_span(span).unwrap_or_else(|| Self::passed_on(header))
    }

    /// The context of a span. `None` where spans are not recorded.
    pub fn of_span(span: &Span) -> Option<Self> {
        let context = span.context();
        let recorded = context.span().span_context().clone();
        Self::from_ids(
            u128::from_be_bytes(recorded.trace_id().to_bytes()),
            u64::from_be_bytes(recorded.span_id().to_bytes()),
            recorded.is_sampled(),
        )
    }
}
