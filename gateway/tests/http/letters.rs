//! A DeadLetterService that knows ExportDeadLetters alone, and answers by the text that is looked for.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream};
use http_body_util::StreamBody;
use prost_reflect::{DynamicMessage, Value};
use runmesh_gateway::DynamicCodec;
use runmesh_proto::dlq::dead_letter_service_server::SERVICE_NAME;
use runmesh_rpc::status;
use tonic::{Response, Status, body::Body, server::NamedService};
use tower::Service;

use crate::fake::{OnDrop, Seen};

/// Marks a response that is to end without saying how.
const CUT: &str = "x-cut";

type Messages = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;

#[derive(Clone)]
pub(crate) struct FakeLetters(pub(crate) Arc<Seen>);

impl NamedService for FakeLetters {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for FakeLetters {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let seen = self.0.clone();
        let descriptors = runmesh_proto::descriptors();
        let input = descriptors.get_message_by_name("runmesh.dlq.v1.ExportDeadLettersRequest").unwrap();
        async move {
            let export = tower::service_fn(move |request: tonic::Request<DynamicMessage>| {
                let seen = seen.clone();
                async move {
                    let text = text_of(request.get_ref());
                    let mut response = export(&text, seen).await.map(Response::new)?;
                    if text == "cut" {
                        response.metadata_mut().insert(CUT, "yes".parse().unwrap());
                    }
                    Ok::<_, Status>(response)
                }
            });
            let response = tonic::server::Grpc::new(DynamicCodec::new(input)).server_streaming(export, request).await;
            let cut = response.headers().contains_key(CUT);
            Ok(if cut { response.map(without_status) } else { response })
        }
        .boxed()
    }
}

fn text_of(request: &DynamicMessage) -> String {
    let filter = request.get_field_by_name("filter").unwrap();
    let text = filter.as_message().unwrap().get_field_by_name("text").unwrap();
    text.as_str().unwrap().to_owned()
}

/// The frames of data, but not the trailers that say how it ended.
fn without_status(body: Body) -> Body {
    let frames = http_body_util::BodyStream::new(body)
        .filter(|frame| std::future::ready(frame.as_ref().is_ok_and(http_body::Frame::is_data)));
    Body::new(StreamBody::new(frames))
}

fn message(content_type: &str, data: impl Into<Bytes>) -> DynamicMessage {
    let descriptor = runmesh_proto::descriptors().get_message_by_name("google.api.HttpBody").unwrap();
    let mut message = DynamicMessage::new(descriptor);
    message.set_field_by_name("content_type", Value::String(content_type.to_owned()));
    message.set_field_by_name("data", Value::Bytes(data.into()));
    message
}

async fn export(text: &str, seen: Arc<Seen>) -> Result<Messages, Status> {
    let guard = OnDrop(seen.clone());
    let first = || message("application/x-ndjson", "{\"first\":1}\n");
    let rest = |number: u64| message("", format!("{number}\n"));
    let messages: Messages = match text {
        "refused" => return Err(status::invalid_argument("filter.text", "is refused")),
        "hangs" => std::future::pending().await,
        "fails" => Box::pin(stream::iter([Err(status::not_found("export", text))])),
        "empty" => Box::pin(stream::empty()),
        "strange" => Box::pin(stream::iter([Ok(message("text/csv\r\nx: y", "a,b\n"))])),
        "breaks" => Box::pin(stream::iter([Ok(first()), Err(status::internal(&std::io::Error::other("on purpose")))])),
        "late" => Box::pin(stream::iter([Ok(first())]).chain(stream::pending())),
        "waits" => Box::pin(stream::iter([Ok(first())]).chain(stream::once(async move {
            seen.release.notified().await;
            Ok(rest(2))
        }))),
        "endless" => Box::pin(stream::iter([Ok(first())]).chain(stream::iter(1..).map(move |number| {
            seen.produced.fetch_add(1, Ordering::SeqCst);
            Ok(rest(number))
        }))),
        _ => Box::pin(stream::iter([Ok(first()), Ok(rest(2)), Ok(message("text/ignored", "")), Ok(rest(3))])),
    };
    Ok(Box::pin(messages.map(move |item| {
        let _guard = &guard;
        item
    })))
}
