//! Errors as `application/problem+json` (RFC 9457).

use std::{collections::BTreeMap, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use runmesh_rpc::REQUEST_TOO_LARGE;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What went wrong, for programs and people.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Parts {
    /// No page describes the problem further, so the title is the one of the HTTP status.
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// The name of the gRPC code.
    code: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<FieldProblem>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip)]
    retry_delay: Option<Duration>,
    #[serde(skip)]
    allow: Option<HeaderValue>,
}

#[derive(Debug, Serialize)]
struct FieldProblem {
    field: String,
    description: String,
}

impl Problem {
    /// The problem that a call's status is.
    pub(crate) fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
        let fields = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let fields = fields.iter().map(|v| FieldProblem { field: v.field.clone(), description: v.description.clone() });
        // Of these the subject is what a field is of those.
        let unmet = details.precondition_failure().map(|unmet| unmet.violations.as_slice()).unwrap_or_default();
        let unmet = unmet.iter().map(|v| FieldProblem { field: v.subject.clone(), description: v.description.clone() });
        let retry_delay = details.retry_info().and_then(|retry| retry.retry_delay);
        let http = if reason == REQUEST_TOO_LARGE { StatusCode::PAYLOAD_TOO_LARGE } else { http_status(status.code()) };
        Self(Box::new(Parts {
            code: code_name(status.code()),
            detail: status.message().to_owned(),
            violations: fields.chain(unmet).collect(),
            retry_after: retry_delay.map(|delay| delay.as_secs_f64()),
            retry_delay,
            metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
            ..Parts::new(http, reason)
        }))
    }

    /// A problem of HTTP itself.
    pub(crate) fn http(status: StatusCode, reason: &str, detail: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Code::Unimplemented,
            StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            _ => Code::InvalidArgument,
        };
        Self(Box::new(Parts { code: code_name(code), detail: detail.into(), ..Parts::new(status, reason.to_owned()) }))
    }

    /// Adds the methods that would be allowed.
    pub(crate) fn allowing(mut self, methods: &str) -> Self {
        self.0.allow = HeaderValue::from_str(methods).ok();
        self
    }

    /// The problem as JSON on one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Parts {
    fn new(status: StatusCode, reason: String) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Client Closed Request"),
            status: status.as_u16(),
            detail: String::new(),
            code: "",
            reason,
            violations: Vec::new(),
            retry_after: None,
            metadata: BTreeMap::new(),
            retry_delay: None,
            allow: None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Parts { status, retry_delay, ref allow, .. } = *self.0;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(delay) = retry_delay {
            // Whole seconds, and never so few that the client comes too early.
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = allow {
            headers.insert(http::header::ALLOW, allow.clone());
        }
        response
    }
}

/// The mapping that `google/rpc/code.proto` documents.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // "Client closed request", which has no name in the registry.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn code_name(code: Code) -> &'static str {
    runmesh_rpc::status::code_name(code)
}

#[cfg(test)]
mod tests {
    use runmesh_rpc::status;

    use super::*;

    #[test]
    fn a_status_keeps_its_details() {
        let problem = Problem::from_status(&status::invalid_argument("spec.language", "is empty"));
        let json: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "about:blank", "title": "Bad Request", "status": 400, "detail": "spec.language: is empty",
                "code": "INVALID_ARGUMENT", "reason": "INVALID_ARGUMENT",
                "violations": [{"field": "spec.language", "description": "is empty"}],
            })
        );
    }

    #[test]
    fn preconditions_that_are_not_met_are_listed_as_fields_are() {
        let missing =
            vec![status::Violation::new("memory_bytes", "no cgroups"), status::Violation::new("network", "none")];
        let status = status::failed_preconditions("LIMITS_NOT_ENFORCED", "not here", missing);
        let json: serde_json::Value = serde_json::from_str(&Problem::from_status(&status).to_json()).unwrap();
        assert_eq!((&json["status"], &json["reason"]), (&400.into(), &"LIMITS_NOT_ENFORCED".into()));
        assert_eq!(
            json["violations"],
            serde_json::json!([
                {"field": "memory_bytes", "description": "no cgroups"}, {"field": "network", "description": "none"},
            ])
        );
    }

    #[test]
    fn the_headers_that_belong_to_a_status_are_there() {
        let busy = status::resource_exhausted("QUEUE_FULL", "full", Some(Duration::from_millis(1200)));
        let response = Problem::from_status(&busy).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        let response = Problem::from_status(&status::unauthenticated("no")).into_response();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
        let large = status::resource_exhausted(REQUEST_TOO_LARGE, "large", None);
        assert_eq!(Problem::from_status(&large).into_response().status(), 413);
    }
}
