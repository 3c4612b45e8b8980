//! Responses that are `google.api.HttpBody`: the bytes themselves, as a file.

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, StatusCode, Version, header};
use prost_reflect::{DynamicMessage, MethodDescriptor};
use runmesh_rpc::status;
use tonic::Status;

use crate::{
    problem::Problem,
    stream::{Active, Opened, Opening},
};

/// The message whose responses are files.
pub(crate) const HTTP_BODY: &str = "google.api.HttpBody";

/// What a file is of which nothing is said.
const BYTES: &str = "application/octet-stream";

/// Answers with one message.
pub(crate) fn whole(rpc: &MethodDescriptor, message: &DynamicMessage) -> Result<Response, Problem> {
    respond(rpc, message, Body::from(data(message))).map_err(|status| Problem::from_status(&status))
}

/// Refuses a stream to a client that could not tell whether it has all of it: the body of HTTP/1.0 ends with the
/// connection, however that ends.
pub(crate) fn check_version(version: Version) -> Result<(), Problem> {
    if version >= Version::HTTP_11 {
        return Ok(());
    }
    let detail = "this download needs HTTP/1.1 or later, by which a cut is told from the end";
    Err(Problem::http(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "HTTP_VERSION_NOT_SUPPORTED", detail))
}

/// Answers with the stream, or with what the call came to before its first message: that is waited for, since it says
/// what the file is.
pub(crate) async fn stream(rpc: &MethodDescriptor, opening: Opening) -> Result<Response, Problem> {
    let opened = opening.await.map_err(|status| Problem::from_status(&status))?;
    let first = opened.first.clone().unwrap_or_else(|| DynamicMessage::new(rpc.output()));
    let body = Body::from_stream(pieces(rpc.clone(), opened));
    respond(rpc, &first, body).map_err(|status| Problem::from_status(&status))
}

/// The body: each piece is asked for when the client has taken the one before. An error cuts the transfer, so that
/// what came is not taken for the whole.
fn pieces(rpc: MethodDescriptor, opened: Opened) -> impl Stream<Item = Result<Bytes, Status>> + use<> {
    let Opened { first, mut rest } = opened;
    async_stream::try_stream! {
        let _active = Active::new(&rpc);
        let mut next = first;
        while let Some(message) = next {
            let data = data(&message);
            if !data.is_empty() {
                yield data;
            }
            next = rest.message().await.inspect_err(|status| {
                tracing::debug!(rpc = rpc.full_name(), code = ?status.code(), "download cut by an error");
            })?;
        }
    }
}

fn respond(rpc: &MethodDescriptor, first: &DynamicMessage, body: Body) -> Result<Response, Status> {
    let given = first.get_field_by_name("content_type");
    let content_type = match given.as_ref().and_then(|value| value.as_str()).unwrap_or_default() {
        "" => BYTES,
        given => given,
    };
    let disposition = format!("attachment; filename=\"{}\"", file_name(rpc.name(), content_type));
    let header = |text: &str| HeaderValue::from_str(text).map_err(|error| status::internal(&error));
    let headers = [
        (header::CONTENT_TYPE, header(content_type)?),
        // Never shown in place: a page would run as one of the gateway's own.
        (header::CONTENT_DISPOSITION, header(&disposition)?),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx would write the file to its own disk first.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

fn data(message: &DynamicMessage) -> Bytes {
    let data = message.get_field_by_name("data");
    data.as_ref().and_then(|value| value.as_bytes()).cloned().unwrap_or_default()
}

/// The method's name without its verb, and the extension of the content: `ExportDeadLetters` makes
/// `dead-letters.ndjson`.
fn file_name(method: &str, content_type: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for letter in method.chars() {
        match words.last_mut() {
            Some(word) if !letter.is_ascii_uppercase() => word.push(letter),
            _ => words.push(letter.to_ascii_lowercase().into()),
        }
    }
    let noun = if words.len() > 1 { &words[1..] } else { &words[..] };
    format!("{}.{}", noun.join("-"), extension(content_type))
}

/// The subtype, where it is short and plain, as that of most files is.
fn extension(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    match subtype.strip_prefix("x-").unwrap_or(subtype) {
        "plain" => "txt".to_owned(),
        "gzip" => "gz".to_owned(),
        plain if !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_alphanumeric()) => plain.to_owned(),
        _ => "bin".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use prost_reflect::Value;

    use super::*;

    fn export() -> MethodDescriptor {
        let service = runmesh_proto::descriptors().get_service_by_name("runmesh.dlq.v1.DeadLetterService").unwrap();
        service.methods().find(|method| method.name() == "ExportDeadLetters").unwrap()
    }

    fn http_body(content_type: &str, data: &'static [u8]) -> DynamicMessage {
        let mut message = DynamicMessage::new(export().output());
        message.set_field_by_name("content_type", Value::String(content_type.to_owned()));
        message.set_field_by_name("data", Value::Bytes(Bytes::from_static(data)));
        message
    }

    #[test]
    fn files_are_named_after_their_method_and_their_content() {
        let names = [
            ("ExportDeadLetters", "application/x-ndjson", "dead-letters.ndjson"),
            ("GetReport", "text/csv; charset=utf-8", "report.csv"),
            ("GetReport", "text/plain", "report.txt"),
            ("GetReport", "Application/GZIP", "report.gz"),
            ("Download", "image/svg+xml", "download.bin"),
            ("Download", BYTES, "download.bin"),
            ("Download", "nonsense", "download.bin"),
        ];
        for (method, content_type, name) in names {
            assert_eq!(file_name(method, content_type), name);
        }
    }

    #[tokio::test]
    async fn one_message_is_a_file_of_known_length() {
        let response = whole(&export(), &http_body("text/csv", b"a,b\n")).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/csv");
        assert_eq!(response.headers()[header::CONTENT_DISPOSITION], "attachment; filename=\"dead-letters.csv\"");
        assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(4));
        assert_eq!(to_bytes(response.into_body(), 100).await.unwrap(), "a,b\n");
        let unnamed = whole(&export(), &http_body("", b"\0")).unwrap();
        assert_eq!(unnamed.headers()[header::CONTENT_TYPE], BYTES);
    }

    #[test]
    fn a_content_type_that_is_no_header_is_an_internal_error() {
        let problem = whole(&export(), &http_body("text/csv\r\nset-cookie: x", b"")).unwrap_err();
        assert_eq!(problem.into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_client_that_can_not_tell_a_cut_from_the_end_gets_no_stream() {
        let problem = check_version(Version::HTTP_10).unwrap_err();
        assert_eq!(problem.into_response().status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
        assert!(check_version(Version::HTTP_11).is_ok() && check_version(Version::HTTP_2).is_ok());
    }
}
