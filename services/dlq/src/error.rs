//! What can go wrong, and the status that a client gets for it.

use std::time::Duration;

use runmesh_rpc::status::{self, Violation};
use runmesh_store::StoreError;
use tonic::Status;

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// An error of the service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DlqError {
    /// Fields of the request are not acceptable.
    #[error("the request is not acceptable")]
    Invalid(Vec<Violation>),
    /// There is no such thing of this kind.
    #[error("there is no {0} {1}")]
    NotFound(&'static str, String),
    /// It is not in a state in which this can be done: a reason as an identifier, and in words.
    #[error("{1}")]
    Precondition(&'static str, String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DlqError {
    /// One field that is not acceptable.
    pub(crate) fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }
}

impl From<DlqError> for Status {
    fn from(error: DlqError) -> Self {
        let words = error.to_string();
        match error {
            DlqError::Invalid(violations) => status::invalid_arguments(violations),
            DlqError::NotFound(what, id) => status::not_found(what, &id),
            DlqError::Precondition(reason, words) => status::failed_precondition(reason, words),
            DlqError::Store(error) if error.is_transient() => status::unavailable(words, RETRY_AFTER),
            DlqError::Store(error) => status::internal(&error),
        }
    }
}
