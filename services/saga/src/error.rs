//! What can go wrong, and the status that a client gets for it.

use runmesh_rpc::status::{self, Violation};
use runmesh_store::StoreError;
use tonic::Status;

/// An error of the saga service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SagaError {
    /// Fields of the request are not acceptable.
    #[error("the request is not acceptable")]
    Invalid(Vec<Violation>),
    /// A cursor lies beyond the log.
    #[error("{0}")]
    BeyondEnd(String),
    /// There is no such saga.
    #[error("there is no saga {0}")]
    NotFound(String),
    /// There is no such execution.
    #[error("there is no execution {0}")]
    ExecutionNotFound(String),
    /// The execution has ended.
    #[error("execution {0} has ended")]
    Ended(String),
    /// Others kept changing the execution.
    #[error("the execution kept changing; try again")]
    Contended,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SagaError {
    /// One field that is not acceptable.
    pub(crate) fn field(field: &str, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }
}

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

impl From<SagaError> for Status {
    fn from(error: SagaError) -> Self {
        let words = error.to_string();
        match error {
            SagaError::Invalid(violations) => status::invalid_arguments(violations),
            SagaError::BeyondEnd(words) => status::out_of_range("cursor", words),
            SagaError::NotFound(id) => status::not_found("saga", &id),
            SagaError::ExecutionNotFound(id) => status::not_found("execution", &id),
            SagaError::Ended(_) => status::failed_precondition("EXECUTION_ENDED", words),
            SagaError::Contended => status::aborted("CONTENDED", words),
            SagaError::Store(StoreError::Gone(id)) => status::not_found("execution", id.as_str()),
            SagaError::Store(error) if error.is_transient() => status::unavailable(words, RETRY_AFTER),
            SagaError::Store(error) => status::internal(&error),
        }
    }
}
