//! What can go wrong, and the status that a client gets for it.

use runmesh_rpc::status::{self, Violation};
use runmesh_store::StoreError;
use tonic::Status;

/// An error of the execution service.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// Fields of the request are not acceptable.
    #[error("the request is not acceptable")]
    Invalid(Vec<Violation>),
    /// A cursor lies beyond the log.
    #[error("{0}")]
    BeyondEnd(String),
    /// There is no such execution.
    #[error("there is no execution {0}")]
    NotFound(String),
    /// The request id is in use for another request.
    #[error("request_id {0:?} was used for another request")]
    RequestIdReused(String),
    /// The execution has ended.
    #[error("execution {0} has ended")]
    Ended(String),
    /// The execution has not ended.
    #[error("execution {0} has not ended")]
    NotEnded(String),
    /// A strict request, and these limits can't be held to in full here.
    #[error("the request is strict, and these limits are not enforced in full here: {}", listed(.0))]
    NotEnforced(Vec<Violation>),
    /// The execution has no cases.
    #[error("execution {0} has no cases; WatchExecution streams it")]
    WithoutCases(String),
    /// Others kept changing the execution.
    #[error("the execution kept changing; try again")]
    Contended,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ExecutionError {
    /// One field that is not acceptable.
    pub(crate) fn field(field: &str, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }
}

fn listed(violations: &[Violation]) -> String {
    violations.iter().map(|one| format!("{} ({})", one.field, one.description)).collect::<Vec<_>>().join(", ")
}

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

impl From<ExecutionError> for Status {
    fn from(error: ExecutionError) -> Self {
        let words = error.to_string();
        match error {
            ExecutionError::Invalid(violations) => status::invalid_arguments(violations),
            ExecutionError::BeyondEnd(words) => status::out_of_range("cursor", words),
            ExecutionError::NotFound(id) => status::not_found("execution", &id),
            ExecutionError::RequestIdReused(_) => status::already_exists("request_id", "REQUEST_ID_REUSED", words),
            ExecutionError::Ended(_) => status::failed_precondition("EXECUTION_ENDED", words),
            ExecutionError::NotEnded(_) => status::failed_precondition("EXECUTION_NOT_ENDED", words),
            ExecutionError::NotEnforced(missing) => status::failed_preconditions("LIMITS_NOT_ENFORCED", words, missing),
            ExecutionError::WithoutCases(_) => status::failed_precondition("EXECUTION_WITHOUT_CASES", words),
            ExecutionError::Contended => status::aborted("CONTENDED", words),
            ExecutionError::Store(StoreError::Gone(id)) => status::not_found("execution", id.as_str()),
            ExecutionError::Store(error) if error.is_transient() => status::unavailable(words, RETRY_AFTER),
            ExecutionError::Store(error) => status::internal(&error),
        }
    }
}
