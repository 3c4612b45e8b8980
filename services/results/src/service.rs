//! The gRPC service.

use std::sync::Arc;

use runmesh_proto::result::{
    GetResultRequest, GetResultResponse,
    result_service_server::{self, ResultServiceServer},
};
use runmesh_rpc::status;
use runmesh_store::{DocumentStore, EventStore, ReadModel, StoreError};
use tonic::{Request, Response, Status};

use crate::document::{self, StoredResult};

/// How long a client should wait before it tries again what may succeed later.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

/// The service. Clones share the store.
#[derive(Clone)]
pub struct ResultService {
    store: Arc<dyn EventStore>,
    results: ReadModel<StoredResult>,
}

impl ResultService {
    /// The service over these stores.
    ///
    /// # Errors
    /// When the collections of results can't be made.
    pub async fn build(store: Arc<dyn EventStore>, documents: Arc<dyn DocumentStore>) -> Result<Self, StoreError> {
        Ok(Self { store, results: document::open(documents).await? })
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> ResultServiceServer<Self> {
        ResultServiceServer::new(self)
    }

    /// Removes the result of an execution, if there is one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn erase(&self, execution_id: &str) -> Result<(), StoreError> {
        self.results.delete(execution_id).await
    }

    pub(crate) fn results(&self) -> &ReadModel<StoredResult> {
        &self.results
    }
}

#[tonic::async_trait]
impl result_service_server::ResultService for ResultService {
    async fn get_result(&self, request: Request<GetResultRequest>) -> Result<Response<GetResultResponse>, Status> {
        let text = &request.get_ref().execution_id;
        let id = runmesh_rpc::execution_id(text).map_err(|violation| status::invalid_arguments(vec![violation]))?;
        if let Some(found) = self.results.get(text).await.map_err(refusal)? {
            return Ok(Response::new(GetResultResponse { result: Some(found.document.0) }));
        }
        match self.store.head(&id.aggregate()).await.map_err(refusal)? {
            0 => Err(status::not_found("execution", text)),
            _ => Err(status::failed_precondition("RESULT_NOT_READY", format!("execution {text} has no result yet"))),
        }
    }
}

fn refusal(error: StoreError) -> Status {
    if error.is_transient() { status::unavailable(error.to_string(), RETRY_AFTER) } else { status::internal(&error) }
}
