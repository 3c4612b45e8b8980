//! ExportDeadLetters: letters with their records, a JSON object in a line.

use async_stream::try_stream;
use futures::{Stream, TryStreamExt as _};
use runmesh_events::json;
use runmesh_proto::{dlq::ExportDeadLettersRequest, google::api::HttpBody};
use tonic::Status;

use crate::{error::DlqError, filter::Selection, service::DeadLetterService, view};

/// The media type of lines of JSON.
const NDJSON: &str = "application/x-ndjson";

/// How many bytes one message has, about.
const CHUNK: usize = 64 << 10;

pub(crate) fn export(
    service: &DeadLetterService,
    request: ExportDeadLettersRequest,
) -> Result<impl Stream<Item = Result<HttpBody, Status>> + Send + use<>, DlqError> {
    let selection = Selection::parse(request.filter.as_ref(), false).map_err(DlqError::Invalid)?;
    let inner = service.shared();
    Ok(try_stream! {
        let mut lines = String::new();
        // The first message says what it is, also where there is nothing.
        yield body(&mut lines);
        {
            let mut letters = std::pin::pin!(selection.all(&inner.letters));
            while let Some(found) = letters.try_next().await.map_err(DlqError::from)? {
                lines.push_str(&json::of("runmesh.dlq.v1.DeadLetterDetail", &view::detail(&found.document)));
                lines.push('\n');
                if lines.len() >= CHUNK {
                    yield body(&mut lines);
                }
            }
        }
        if !lines.is_empty() {
            yield body(&mut lines);
        }
    })
}

fn body(lines: &mut String) -> HttpBody {
    HttpBody { content_type: NDJSON.to_owned(), data: std::mem::take(lines).into_bytes(), ..Default::default() }
}
