//! What the driver's errors mean, and how often something is tried.

use std::{future::IntoFuture, time::Duration};

use mongodb::error::{Error, ErrorKind, RETRYABLE_ERROR, RETRYABLE_WRITE_ERROR, WriteFailure};
use tokio::time::{Instant, sleep, timeout_at};

use crate::StoreError;

/// The name of the unique index over event ids.
pub(super) const EVENT_IDS: &str = "event_ids";

/// How often one step is tried at most.
const TRIES: u32 = 4;

/// The first wait before a step is tried again. Each one after it is about twice as long.
const WAIT: Duration = Duration::from_millis(25);

/// How much of a server's text is passed on.
const TEXT: usize = 400;

/// Codes of the server that stand for a state that passes: a step-down, a shutdown, a lost connection between members, a
/// limit of time, a conflict of writes inside the server. <https://www.mongodb.com/docs/manual/reference/error-codes/>
const PASSING: [i32; 26] = [
    6, 7, 24, 43, 46, 50, 64, 89, 91, 112, 134, 136, 175, 189, 202, 262, 290, 317, 365, 9001, 10058, 10107, 11600,
    11602, 13435, 13436,
];

/// Codes of a duplicate key.
const DUPLICATE: [i32; 3] = [11000, 11001, 12582];

/// Codes of a document that is too large.
const TOO_LARGE: [i32; 4] = [10334, 17419, 17420, 17280];

/// Codes of credentials that are refused, or that allow too little.
const REFUSED: [i32; 3] = [13, 18, 8000];

/// Why a step came to nothing, or why it is not known what it came to.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The server could not be asked, or its answer did not come: a write may have been done.
    Passing(String),
    /// A document with this key is there.
    Duplicate {
        /// Whether it is the id of an event; otherwise it is the document's own.
        event_id: bool,
    },
    /// Trying again is of no use.
    Lasting(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Lasting(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = describe(&error);
        if let Some(code) = code(&error) {
            if DUPLICATE.contains(&code) {
                return Self::Duplicate { event_id: names_index(&text, EVENT_IDS) };
            }
            if TOO_LARGE.contains(&code) {
                return Self::Lasting(StoreError::Invalid(format!("too large for the store: {text}")));
            }
            if REFUSED.contains(&code) {
                return Self::Lasting(StoreError::Backend(format!("the credentials of the store's uri: {text}")));
            }
            if PASSING.contains(&code) {
                return Self::Passing(text);
            }
        }
        if [RETRYABLE_ERROR, RETRYABLE_WRITE_ERROR].iter().any(|label| error.contains_label(label)) {
            return Self::Passing(text);
        }
        match *error.kind {
            ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::DnsResolve { .. } => Self::Passing(text),
            ErrorKind::Authentication { .. } => {
                Self::Lasting(StoreError::Backend(format!("the credentials of the store's uri: {text}")))
            }
            ErrorKind::InvalidTlsConfig { .. } => {
                Self::Lasting(StoreError::Invalid(format!("TLS in the store's uri: {text}")))
            }
            ErrorKind::Bson(_) => Self::Lasting(StoreError::Corrupt(text)),
            _ => Self::Lasting(StoreError::Backend(text)),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Passing(why) => Self::Unavailable(why),
            Failure::Duplicate { .. } => Self::Backend("a key is there already".to_owned()),
            Failure::Lasting(error) => error,
        }
    }
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
        _ => None,
    }
}

/// What happened, without what the driver knows besides. No text of the driver or a server holds a password.
fn describe(error: &Error) -> String {
    let text = match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(write)) => format!("error code {}: {}", write.code, write.message),
        ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => {
            format!("error code {} ({}): {}", concern.code, concern.code_name, concern.message)
        }
        kind => kind.to_string(),
    };
    shorten(text)
}

fn shorten(mut text: String) -> String {
    if text.len() > TEXT {
        let end = (0..=TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Whether a text about a duplicate key names this index: `… index: NAME dup key: { … }`. What the key is comes behind
/// the name, so that no value is taken for it.
fn names_index(text: &str, index: &str) -> bool {
    text.split_once(" index: ").and_then(|(_, rest)| rest.split_whitespace().next()).is_some_and(|name| name == index)
}

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    timeout: Duration,
    deadline: Instant,
    made: u32,
}

impl Attempts {
    /// The tries of a call that may take this long.
    pub(super) fn within(timeout: Duration) -> Self {
        Self { timeout, deadline: Instant::now() + timeout, made: 0 }
    }

    /// When the call is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Something was achieved: the tries begin anew.
    pub(super) fn renew(&mut self) {
        *self = Self::within(self.timeout);
    }

    /// One step, as long as the call may still take.
    pub(super) async fn step<T>(&self, operation: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, Failure> {
        match timeout_at(self.deadline, operation.into_future()).await {
            Ok(result) => result.map_err(Failure::from),
            Err(_) => Err(Failure::Passing(format!("no answer within {:?}", self.timeout))),
        }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with the reason when there is no next one.
    pub(super) async fn again(&mut self, why: String) -> Result<(), StoreError> {
        self.made += 1;
        let wait = jitter(WAIT * 2_u32.saturating_pow(self.made - 1));
        if self.made >= TRIES || Instant::now() + wait >= self.deadline {
            return Err(StoreError::Unavailable(why));
        }
        tracing::debug!(why, tries = self.made, "the store failed for the moment; trying again");
        sleep(wait).await;
        Ok(())
    }

    /// Waits a moment for others who write to the same place.
    pub(super) async fn give_way(&self) {
        sleep(jitter(WAIT / 8)).await;
    }
}

/// A time between a half of this one and this one.
fn jitter(time: Duration) -> Duration {
    time.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// Does something that may be done again, and does it again where that may help.
pub(super) async fn repeat<T, F>(timeout: Duration, operation: impl Fn() -> F) -> Result<T, Failure>
where
    F: IntoFuture<Output = Result<T, Error>>,
{
    let mut attempts = Attempts::within(timeout);
    loop {
        match attempts.step(operation()).await {
            Err(Failure::Passing(why)) => attempts.again(why).await?,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_duplicate_key_is_told_from_its_value() {
        let text = |index: &str, value: &str| {
            format!("E11000 duplicate key error collection: db.events index: {index} dup key: {{ _id: \"{value}\" }}")
        };
        assert!(names_index(&text("event_ids", "x"), EVENT_IDS));
        assert!(!names_index(&text("_id_", " index: event_ids dup key"), EVENT_IDS));
        assert!(!names_index("E11000 duplicate key error collection: db.events", EVENT_IDS));
    }

    #[test]
    fn a_lost_connection_passes_and_a_refused_document_does_not() {
        let lost: Failure = Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset)).into();
        assert!(StoreError::from(lost).is_transient());
        let wrong: Failure = Error::custom("wrong").into();
        assert!(!StoreError::from(wrong).is_transient());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = shorten("ä".repeat(TEXT));
        assert!(text.len() <= TEXT + '…'.len_utf8() && text.ends_with('…'));
    }
}
