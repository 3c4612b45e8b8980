//! What can go wrong, and the status that a client gets for it.

use std::time::Duration;

use runmesh_bus::BusError;
use runmesh_rpc::status;
use runmesh_store::StoreError;
use tonic::Status;

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a verification came to no end. It says nothing about what it would have found.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store failed.
    #[error("can't verify: {0}")]
    Store(#[from] StoreError),
    /// The bus failed.
    #[error("can't verify: {0}")]
    Bus(#[from] BusError),
}

impl From<VerifyError> for Status {
    fn from(error: VerifyError) -> Self {
        let is_transient = match &error {
            VerifyError::Store(error) => error.is_transient(),
            VerifyError::Bus(error) => error.is_transient(),
        };
        if is_transient { status::unavailable(error.to_string(), RETRY_AFTER) } else { status::internal(&error) }
    }
}
