//! A server-stream as Server-Sent Events.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, StatusCode, header};
use prost_reflect::{DynamicMessage, MethodDescriptor};
use runmesh_rpc::status;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    problem::Problem,
    routes::SseRule,
    stream::{Active, Opened, Opening},
    transcode::write_json,
};

/// What the streams of one gateway share.
#[derive(Debug, Clone)]
pub(crate) struct SseSettings {
    pub(crate) heartbeat: Duration,
    pub(crate) retry: Duration,
    pub(crate) first_message_wait: Duration,
    /// Cancelled when clients should go elsewhere.
    pub(crate) draining: CancellationToken,
}

/// How much longer a client that comes back waits for the first message: it is likely that its stream has ended, and only
/// an answer without a stream keeps an EventSource from coming back for ever.
const RESUME_FACTOR: u32 = 10;

/// Answers with the stream, or with what the call came to before its first message.
pub(crate) async fn respond(
    rpc: &MethodDescriptor,
    rule: &SseRule,
    mut opening: Opening,
    resumes: bool,
    settings: SseSettings,
) -> Response {
    let wait = settings.first_message_wait * if resumes { RESUME_FACTOR } else { 1 };
    let source = match timeout(wait, &mut opening).await {
        Ok(Err(status)) => return Problem::from_status(&status).into_response(),
        // 204 is what tells an EventSource to stay away.
        Ok(Ok(Opened { first: None, .. })) => return StatusCode::NO_CONTENT.into_response(),
        Ok(Ok(opened)) => Source::Open(Box::new(opened)),
        Err(_) => Source::Opening(opening),
    };
    let encoder = Encoder { rpc: rpc.clone(), rule: rule.clone() };
    let mut response = Response::new(Body::from_stream(frames(encoder, source, resumes, settings)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would hold the events back otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

enum Source {
    Opening(Opening),
    Open(Box<Opened>),
}

impl Source {
    /// The next message. Can be dropped and called again without losing one.
    async fn next(&mut self) -> Result<Option<DynamicMessage>, Status> {
        if let Self::Opening(opening) = self {
            let opened = opening.await?;
            *self = Self::Open(Box::new(opened));
        }
        match self {
            Self::Open(opened) => match opened.first.take() {
                Some(first) => Ok(Some(first)),
                None => opened.rest.message().await,
            },
            Self::Opening(_) => Ok(None),
        }
    }
}

enum Step {
    Message(Result<Option<DynamicMessage>, Status>),
    Idle,
    Drain,
}

/// The response's body: each frame is made when the client has taken the one before.
fn frames(
    encoder: Encoder,
    mut source: Source,
    resumes: bool,
    settings: SseSettings,
) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    async_stream::stream! {
        let _active = Active::new(&encoder.rpc);
        // A client that came back after the end and is answered too late for a 204 has missed nothing: it gets the 204
        // when it comes again.
        let mut may_end = resumes;
        yield Ok(preface(settings.retry));
        loop {
            let step = tokio::select! {
                biased;
                () = settings.draining.cancelled() => Step::Drain,
                message = source.next() => Step::Message(message),
                () = sleep(settings.heartbeat) => Step::Idle,
            };
            match step {
                Step::Idle => yield Ok(Bytes::from_static(b": heartbeat\n\n")),
                Step::Drain => {
                    yield Ok(reconnect(settings.retry));
                    return;
                }
                Step::Message(Ok(Some(message))) => match encoder.encode(&message) {
                    Ok((frame, is_last)) => {
                        yield Ok(frame);
                        may_end = false;
                        if is_last {
                            return;
                        }
                    }
                    Err(status) => {
                        yield Ok(error_frame(&status));
                        return;
                    }
                },
                Step::Message(Ok(None)) => {
                    if let (false, Some(status)) = (may_end, encoder.early_end()) {
                        yield Ok(error_frame(&status));
                    }
                    return;
                }
                Step::Message(Err(status)) => {
                    tracing::debug!(rpc = encoder.rpc.full_name(), code = ?status.code(), "stream ended with an error");
                    yield Ok(error_frame(&status));
                    return;
                }
            }
        }
    }
}

fn preface(retry: Duration) -> Bytes {
    Bytes::from(format!("retry: {}\n: runmesh\n\n", retry.as_millis()))
}

fn reconnect(retry: Duration) -> Bytes {
    let retry = retry.as_millis();
    Bytes::from(format!(
        ": this server is going away\nretry: {retry}\nevent: reconnect\ndata: {{\"retryMs\":{retry}}}\n\n"
    ))
}

fn error_frame(status: &Status) -> Bytes {
    Bytes::from(format!("event: error\ndata: {}\n\n", Problem::from_status(status).to_json()))
}

/// Makes frames of the messages of one stream.
struct Encoder {
    rpc: MethodDescriptor,
    rule: SseRule,
}

impl Encoder {
    /// The frame of a message, and whether it is the last.
    fn encode(&self, message: &DynamicMessage) -> Result<(Bytes, bool), Status> {
        let mut frame = Vec::with_capacity(512);
        if let Some(field) = &self.rule.id_field {
            let id = message.get_field(field);
            let id = id.as_str().unwrap_or_default();
            if id.contains(['\n', '\r', '\0']) {
                return Err(status::internal(&std::io::Error::other(
                    "a cursor has a character that an event id can't have",
                )));
            }
            if !id.is_empty() {
                frame.extend_from_slice(b"id: ");
                frame.extend_from_slice(id.as_bytes());
                frame.push(b'\n');
            }
        }
        let set =
            self.rule.event_oneof.as_ref().and_then(|oneof| oneof.fields().find(|field| message.has_field(field)));
        if let Some(field) = &set {
            frame.extend_from_slice(b"event: ");
            frame.extend_from_slice(field.name().as_bytes());
            frame.push(b'\n');
        }
        frame.extend_from_slice(b"data: ");
        write_json(message, &mut frame).map_err(|error| status::internal(&error))?;
        frame.extend_from_slice(b"\n\n");
        let is_last = self.rule.end_field.as_ref().is_some_and(|end| message.has_field(end));
        Ok((Bytes::from(frame), is_last))
    }

    /// What a client is told when the stream ends without its last message.
    fn early_end(&self) -> Option<Status> {
        self.rule.end_field.as_ref().map(|end| {
            let text = format!("the stream ended before its last event, {:?}; connect again to resume", end.name());
            status::unavailable(text, Duration::from_secs(1))
        })
    }
}
