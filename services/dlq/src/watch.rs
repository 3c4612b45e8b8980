//! WatchDeadLetters: letters as they change.

use std::time::{Duration, SystemTime};

use async_stream::try_stream;
use futures::Stream;
use runmesh_bus::DeadLetter;
use runmesh_proto::dlq::{WatchDeadLettersRequest, WatchDeadLettersResponse, watch_dead_letters_response::Item};
use runmesh_rpc::status;
use runmesh_store::{IndexValue, PageQuery};
use tokio::time::sleep;
use tonic::Status;

use crate::{error::DlqError, filter::Selection, service::DeadLetterService, view};

/// How often it is looked for changes.
const LOOK: Duration = Duration::from_millis(250);

/// How long a change may take from its time to the moment in which it can be read: in one process, and where others write to
/// the store too, whose clocks may differ. What is younger is shown later.
const SETTLED: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));

/// How many letters one read brings.
const READ: usize = 128;

/// Up to where a client has seen all: a time in microseconds since 1970, and an id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    micros: i64,
    id: String,
}

impl Place {
    fn of(letter: &DeadLetter) -> Self {
        Self { micros: micros(letter.changed_at), id: letter.id.clone() }
    }

    fn parse(text: &str) -> Option<Self> {
        let (micros, id) = text.split_once('/')?;
        Some(Self { micros: micros.parse().ok().filter(|micros| *micros >= 0)?, id: id.to_owned() })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.micros, self.id)
    }
}

fn micros(time: SystemTime) -> i64 {
    match IndexValue::from(time) {
        IndexValue::Integer(micros) => micros,
        IndexValue::Text(_) => 0,
    }
}

pub(crate) fn watch(
    service: &DeadLetterService,
    request: WatchDeadLettersRequest,
) -> Result<impl Stream<Item = Result<WatchDeadLettersResponse, Status>> + Send + use<>, DlqError> {
    let selection = Selection::parse(request.filter.as_ref(), true).map_err(DlqError::Invalid)?;
    let mut place = match request.cursor.as_str() {
        "" => Place { micros: micros(SystemTime::now()), id: String::new() },
        cursor => Place::parse(cursor).ok_or_else(|| DlqError::field("cursor", "is not one that a watch gave out"))?,
    };
    let inner = service.shared();
    let settled = if inner.events.is_shared() { SETTLED.1 } else { SETTLED.0 };
    Ok(try_stream! {
        loop {
            let upto = micros(SystemTime::now() - settled);
            let mut query = PageQuery {
                index: DeadLetter::BY_CHANGE,
                at_least: Some(place.micros.into()),
                less_than: Some(upto.into()),
                limit: READ,
                ..PageQuery::default()
            };
            // An empty range would be refused.
            while place.micros < upto {
                let page = inner.letters.documents().page(query.clone()).await.map_err(DlqError::from)?;
                for found in page.documents {
                    let letter = found.document;
                    let at = Place::of(&letter);
                    if at <= place {
                        continue;
                    }
                    place = at;
                    if selection.matches(&letter) {
                        let item = Some(Item::DeadLetter(view::letter(&letter)));
                        yield WatchDeadLettersResponse { cursor: place.to_string(), item };
                    }
                }
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
            }
            if inner.shutdown.run_until_cancelled(sleep(LOOK)).await.is_none() {
                Err(status::shutting_down())?;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let place = Place { micros: 7, id: "a/b".to_owned() };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for wrong in ["", "7", "-1/a", "x/a"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
