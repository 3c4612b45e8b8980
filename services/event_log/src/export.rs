//! ExportEvents: events as a file.

mod table;

use std::sync::Arc;

use async_stream::try_stream;
use futures::{Stream, TryStreamExt as _};
use runmesh_proto::{
    event_log::{ExportEventsRequest, ExportFormat},
    google::api::HttpBody,
};
use runmesh_rpc::Violation;
use runmesh_store::{Position, StoreError, Stored};
use tonic::Status;

use crate::{
    error::{EventLogError, selection},
    reading,
    service::Inner,
    view,
};

/// How many bytes one message has, about.
const CHUNK: usize = 64 << 10;

/// The form of the file.
#[derive(Debug, Clone, Copy)]
enum Form {
    Lines,
    Table,
}

impl Form {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Table => "text/csv; charset=utf-8",
        }
    }

    /// What a file of this form begins with.
    fn head(self) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Lines => Ok(Vec::new()),
            Self::Table => table::head(),
        }
    }

    fn write(self, stored: &Stored, to: &mut Vec<u8>) -> Result<(), StoreError> {
        match self {
            Self::Lines => {
                to.extend_from_slice(view::logged_json(stored).as_bytes());
                to.push(b'\n');
                Ok(())
            }
            Self::Table => table::row(stored, to),
        }
    }

    /// The events in pieces of about [`CHUNK`]. It takes a while, so it is done where nobody waits for the thread.
    async fn pieces(self, events: Vec<Stored>) -> Result<Vec<Vec<u8>>, StoreError> {
        let work = move || {
            let (mut pieces, mut piece) = (Vec::new(), Vec::new());
            for stored in &events {
                self.write(stored, &mut piece)?;
                if piece.len() >= CHUNK {
                    pieces.push(std::mem::take(&mut piece));
                }
            }
            if !piece.is_empty() {
                pieces.push(piece);
            }
            Ok(pieces)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| StoreError::Backend(format!("writing events did not end: {error}")))?
    }
}

pub(crate) async fn export(
    inner: Arc<Inner>,
    request: ExportEventsRequest,
) -> Result<impl Stream<Item = Result<HttpBody, Status>> + Send, EventLogError> {
    let mut violations = Vec::new();
    let form = match ExportFormat::try_from(request.format) {
        Ok(ExportFormat::Csv) => Form::Table,
        Ok(ExportFormat::Ndjson | ExportFormat::Unspecified) => Form::Lines,
        Err(_) => {
            violations.push(Violation::new("format", format!("{} is no format that is known here", request.format)));
            Form::Lines
        }
    };
    let selection = selection(&request.filter.unwrap_or_default(), &mut violations);
    if !violations.is_empty() {
        return Err(EventLogError::Invalid(violations));
    }
    // Later events are left out, so that it comes to an end.
    let upto = reading::newest(&*inner.store).await?;
    let body = move |data| HttpBody { content_type: form.content_type().to_owned(), data, ..HttpBody::default() };
    Ok(try_stream! {
        // The first message says what it is, also where there is nothing.
        yield body(form.head().map_err(EventLogError::from)?);
        let events = reading::all(Arc::clone(&inner.store), Arc::new(selection), Position(0), upto);
        let mut events = std::pin::pin!(events);
        while let Some(read) = events.try_next().await.map_err(EventLogError::from)? {
            for piece in form.pieces(read).await.map_err(EventLogError::from)? {
                yield body(piece);
            }
        }
    })
}
