//! What can go wrong, and the status that a client gets for it.

use std::time::Duration;

use runmesh_rpc::status::{self, Violation};
use runmesh_store::StoreError;
use tonic::Status;

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// An error of the service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// Fields of the request are not acceptable.
    #[error("the request is not acceptable")]
    Invalid(Vec<Violation>),
    /// There is no such replay.
    #[error("there is no replay {0}")]
    NotFound(String),
    /// It can't be done as things are: a reason as an identifier, and the field that is about them.
    #[error("{}: {}", .1.field, .1.description)]
    Precondition(String, Violation),
    /// The request's id was used for another request.
    #[error("request_id {0:?} was used for another request")]
    RequestIdReused(String),
    /// The folder of replays failed.
    #[error("the folder of replays: {0}")]
    Folder(#[from] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReplayError {
    /// One field that is not acceptable.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }

    /// It can't be done as things are.
    pub(crate) fn precondition(reason: &str, field: &str, description: impl Into<String>) -> Self {
        Self::Precondition(reason.to_owned(), Violation::new(field, description))
    }
}

impl From<ReplayError> for Status {
    fn from(error: ReplayError) -> Self {
        let words = error.to_string();
        match error {
            ReplayError::Invalid(violations) => status::invalid_arguments(violations),
            ReplayError::NotFound(id) => status::not_found("replay", &id),
            ReplayError::Precondition(reason, violation) => {
                status::failed_preconditions(&reason, words, vec![violation])
            }
            ReplayError::RequestIdReused(_) => status::already_exists("request_id", "REQUEST_ID_REUSED", words),
            ReplayError::Folder(_) => status::unavailable(words, RETRY_AFTER),
            ReplayError::Store(error) if error.is_transient() => status::unavailable(words, RETRY_AFTER),
            ReplayError::Store(error) => status::internal(&error),
        }
    }
}
