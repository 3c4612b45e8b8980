//! From an HTTP request to the RPC and back.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Version,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::LengthLimitError;
use metrics::counter;
use prost_reflect::DynamicMessage;
use runmesh_rpc::{Deadline, REQUEST_TOO_LARGE, Violation, status};
use tonic::{Status, client::Grpc};

use crate::{
    codec::DynamicCodec,
    download,
    gateway::{Inner, Upstream},
    guard,
    problem::Problem,
    query,
    routes::{Answer, Lookup, Route},
    sse,
    stream::{Opened, Opening},
    transcode::{request_message, write_json},
};

/// The greatest size of a response message.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// How long a request's body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Where an EventSource sends its last cursor when it comes back.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Where an EventSource or a link, which can't set headers, may have its token.
const ACCESS_TOKEN: &str = "access_token";

/// Serves every path that is not the gateway's own.
pub(crate) async fn dispatch(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (pattern, response) = match guard::check(&inner.config, &parts.method, &parts.uri, &parts.headers) {
        Err(problem) => ("", problem.into_response()),
        Ok(()) => match inner.routes.find(&parts.method, parts.uri.path()) {
            Lookup::Unknown => {
                ("", Problem::http(StatusCode::NOT_FOUND, "PATH_NOT_FOUND", "there is no such path").into_response())
            }
            Lookup::OtherMethods(methods) => {
                let methods = methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
                let detail = format!("this path has the methods {methods}");
                let problem = Problem::http(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail);
                ("", problem.allowing(&methods).into_response())
            }
            Lookup::Found(route, fields) => {
                let query = parts.uri.query().unwrap_or_default();
                let call = Call { inner: &inner, route, fields, query, version: parts.version };
                let response = call.run(parts.headers, body).await;
                (route.pattern.as_str(), response.unwrap_or_else(Problem::into_response))
            }
        },
    };
    // Never the URI itself, which may have a token in its query.
    tracing::debug!(method = %parts.method, route = pattern, status = response.status().as_u16(), "answered");
    counter!(
        "gateway_requests_total",
        "route" => pattern.to_owned(),
        "status" => response.status().as_u16().to_string(),
    )
    .increment(1);
    response
}

struct Call<'a> {
    inner: &'a Inner,
    route: &'a Route,
    fields: Vec<(&'a str, &'a str)>,
    query: &'a str,
    version: Version,
}

impl Call<'_> {
    async fn run(self, mut headers: HeaderMap, body: Body) -> Result<Response, Problem> {
        let invalid = |violation| Problem::from_status(&status::invalid_arguments(vec![violation]));
        // It runs from now on, so that the time that the body takes counts.
        let deadline = Deadline::of(&headers).map_err(|status| Problem::from_status(&status))?;
        let mut query = query::parse(self.query).map_err(invalid)?;
        if self.route.answer.takes_token_from_query() {
            take_access_token(&mut query, &mut headers).map_err(invalid)?;
        }
        let cursor_field = self.route.answer.cursor_field();
        let cursor = match cursor_field {
            Some(field) => take_cursor(field, &mut query, &headers).map_err(invalid)?,
            None => None,
        };
        // Before the body is read, so that nobody without a token can make the gateway hold one.
        self.check_access(&headers)?;
        let body = self.read(body).await?;
        let mut message = request_message(self.route, &self.fields, &query, &headers, &body)?;
        if let (Some(field), Some(cursor)) = (cursor_field, &cursor) {
            query::set(&mut message, field.name(), cursor).map_err(invalid)?;
        }
        let rpc = &self.route.rpc;
        let request = request(message, &headers, deadline);
        match &self.route.answer {
            Answer::Json => json(&self.unary(request).await?),
            Answer::Events(rule) => {
                let settings = self.inner.sse.clone();
                Ok(sse::respond(rpc, rule, self.open(request), cursor.is_some(), settings).await)
            }
            Answer::File if rpc.is_server_streaming() => {
                download::check_version(self.version)?;
                download::stream(rpc, self.open(request)).await
            }
            Answer::File => download::whole(rpc, &self.unary(request).await?),
        }
    }

    fn check_access(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.inner.policy.token.is_none() {
            // The upstream may still want one, and decides itself.
            return Ok(());
        }
        let decision = self.inner.policy.check(self.route.rpc_path.as_str(), headers);
        decision.map(drop).map_err(|status| Problem::from_status(&status))
    }

    async fn read(&self, body: Body) -> Result<Bytes, Problem> {
        let limit = self.inner.config.max_body_bytes;
        let too_large = || {
            let detail = format!("the body has more than {limit} bytes");
            Problem::http(StatusCode::PAYLOAD_TOO_LARGE, REQUEST_TOO_LARGE, detail)
        };
        if http_body::Body::size_hint(&body).lower() > limit as u64 {
            return Err(too_large());
        }
        let whole = tokio::time::timeout(BODY_PATIENCE, to_bytes(body, limit)).await.map_err(|_| {
            Problem::from_status(&status::deadline_exceeded("the body did not come to its end in time"))
        })?;
        whole.map_err(|error| {
            let inner = error.into_inner();
            if !inner.is::<LengthLimitError>() {
                return Problem::from_status(&status::invalid_argument("body", "could not be read to its end"));
            }
            too_large()
        })
    }

    fn client(&self) -> Grpc<Upstream> {
        Grpc::new(self.inner.upstream.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    async fn unary(&self, request: tonic::Request<DynamicMessage>) -> Result<DynamicMessage, Problem> {
        let mut client = self.client();
        let answer = async {
            ready(&mut client).await?;
            let codec = DynamicCodec::new(self.route.rpc.output());
            client.unary(request, self.route.rpc_path.clone(), codec).await
        };
        Ok(answer.await.map_err(|status| Problem::from_status(&status))?.into_inner())
    }

    fn open(&self, request: tonic::Request<DynamicMessage>) -> Opening {
        let mut client = self.client();
        let (path, codec) = (self.route.rpc_path.clone(), DynamicCodec::new(self.route.rpc.output()));
        Box::pin(async move {
            ready(&mut client).await?;
            let mut rest = client.server_streaming(request, path, codec).await?.into_inner();
            let first = rest.message().await?;
            Ok(Opened { first, rest })
        })
    }
}

fn json(answer: &DynamicMessage) -> Result<Response, Problem> {
    let mut json = Vec::with_capacity(1024);
    write_json(answer, &mut json).map_err(|error| Problem::from_status(&status::internal(&error)))?;
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    Ok((headers, json).into_response())
}

/// Waits until the upstream takes a call.
async fn ready(client: &mut Grpc<Upstream>) -> Result<(), Status> {
    client.ready().await
}

/// The call's request, with the headers that are the upstream's too.
fn request(message: DynamicMessage, headers: &HeaderMap, deadline: Option<Deadline>) -> tonic::Request<DynamicMessage> {
    let mut request = tonic::Request::new(message);
    for name in [AUTHORIZATION, HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")] {
        if let Some(value) = headers.get(&name) {
            let mut value = value.clone();
            value.set_sensitive(name == AUTHORIZATION);
            request.metadata_mut().as_mut().insert(name, value);
        }
    }
    if let Some(deadline) = deadline {
        deadline.write(request.metadata_mut().as_mut());
    }
    request
}

/// Takes the token out of the query. A header wins.
fn take_access_token(query: &mut Vec<(String, String)>, headers: &mut HeaderMap) -> Result<(), Violation> {
    let Some(index) = query.iter().position(|(name, _)| name == ACCESS_TOKEN) else { return Ok(()) };
    let (_, token) = query.remove(index);
    if !headers.contains_key(AUTHORIZATION) && !token.is_empty() {
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Violation::new(ACCESS_TOKEN, "has characters that a token can't have"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(())
}

/// Takes the cursor out of the query. The header wins: an EventSource that comes back has the URL of its first time.
fn take_cursor(
    field: &prost_reflect::FieldDescriptor,
    query: &mut Vec<(String, String)>,
    headers: &HeaderMap,
) -> Result<Option<String>, Violation> {
    let header = match headers.get(LAST_EVENT_ID).map(|value| std::str::from_utf8(value.as_bytes())) {
        Some(Err(_)) => return Err(Violation::new("Last-Event-ID", "is not UTF-8")),
        Some(Ok(text)) if !text.is_empty() => Some(text.to_owned()),
        _ => None,
    };
    let mut given = None;
    let mut twice = false;
    query.retain_mut(|(name, value)| {
        let is_cursor = name == field.name() || name == field.json_name();
        if is_cursor {
            twice |= given.replace(std::mem::take(value)).is_some();
        }
        !is_cursor
    });
    if twice {
        return Err(Violation::new(field.name(), "is given more than once"));
    }
    Ok(header.or(given).filter(|cursor| !cursor.is_empty()))
}
