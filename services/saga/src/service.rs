//! The gRPC service: each method checks its request and hands it on.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::Stream;
use runmesh_events::{AggregateId, Event, EventId, NewEvent};
use runmesh_proto::saga::{
    CancelSagaRequest, CancelSagaResponse, GetSagaByExecutionRequest, GetSagaByExecutionResponse, GetSagaRequest,
    GetSagaResponse, ListSagasRequest, ListSagasResponse, WatchSagaRequest, WatchSagaResponse,
    saga_service_server::{self, SagaServiceServer},
};
use runmesh_rpc::{caller_of, trace_of};
use runmesh_store::{Appended, DocumentStore, Documents, EventStore, Expected, StoreError, read_log};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    SagaConfig, cancel,
    document::SagaDocument,
    error::SagaError,
    list,
    machine::{SagaLog, TYPES, saga_id},
    view::SagaView,
    watch,
};

/// What the service works with.
pub struct Dependencies {
    /// The event store.
    pub store: Arc<dyn EventStore>,
    /// The document store.
    pub documents: Arc<dyn DocumentStore>,
    /// Ends streams when the node shuts down.
    pub shutdown: CancellationToken,
}

/// The service. Clones share everything.
#[derive(Clone)]
pub struct SagaService {
    inner: Arc<Inner>,
}

struct Inner {
    config: SagaConfig,
    store: Arc<dyn EventStore>,
    documents: Documents<SagaDocument>,
    shutdown: CancellationToken,
}

impl SagaService {
    /// The service with these settings over these stores.
    ///
    /// # Errors
    /// When the collection of sagas can't be made.
    pub async fn build(config: SagaConfig, dependencies: Dependencies) -> Result<Self, StoreError> {
        let Dependencies { store, documents, shutdown } = dependencies;
        let documents = Documents::open(documents).await?;
        Ok(Self { inner: Arc::new(Inner { config, store, documents, shutdown }) })
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> SagaServiceServer<Self> {
        SagaServiceServer::new(self)
    }

    /// Removes what is kept of an execution's saga, if there is something.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn erase(&self, execution_id: &str) -> Result<(), StoreError> {
        self.documents().delete(&saga_id(execution_id)).await.map(drop)
    }

    pub(crate) fn store(&self) -> &dyn EventStore {
        self.inner.store.as_ref()
    }

    pub(crate) fn shared_store(&self) -> Arc<dyn EventStore> {
        Arc::clone(&self.inner.store)
    }

    pub(crate) fn documents(&self) -> &Documents<SagaDocument> {
        &self.inner.documents
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    pub(crate) fn start_timeout(&self) -> Duration {
        self.inner.config.start_timeout
    }

    /// What the machine and the view read of an execution's log.
    pub(crate) async fn load(&self, aggregate: &AggregateId) -> Result<Loaded, StoreError> {
        let (events, head) = read_log(self.store(), aggregate, &TYPES).await?;
        Ok(Loaded { events, head })
    }

    /// Keeps the document of a saga that begins, if there is none.
    pub(crate) async fn keep_begun(&self, view: &SagaView) -> Result<(), StoreError> {
        match self.documents().insert(&self.begun(view)).await {
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Appends the first events of a saga, behind its document, so that who hears of it finds it.
    pub(crate) async fn begin(
        &self,
        loaded: &Loaded,
        aggregate: &AggregateId,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError> {
        let ahead = self.documents().ahead(&self.begun(&loaded.view()));
        let expected = Expected::Sequence(loaded.head);
        match self.store().append_behind(ahead, aggregate, expected, events.clone()).await {
            Ok(behind) => behind.appended,
            // Somebody asked for it before it began, or it began before a crash.
            Err(StoreError::RevisionMismatch { .. }) => self.store().append(aggregate, expected, events).await,
            Err(error) => Err(error),
        }
    }

    fn begun(&self, view: &SagaView) -> SagaDocument {
        let look_at = Some(SystemTime::now() + self.start_timeout()).filter(|_| !view.ended());
        SagaDocument::of(view, look_at)
    }

    /// The execution of a saga.
    pub(crate) async fn execution_of(&self, text: &str) -> Result<AggregateId, SagaError> {
        if text.is_empty() {
            return Err(SagaError::field("saga_id", "is missing"));
        }
        text.parse::<EventId>().map_err(|error| SagaError::field("saga_id", format!("{error}")))?;
        let found = self.documents().get(text).await?;
        let found = found.ok_or_else(|| SagaError::NotFound(text.to_owned()))?;
        Ok(AggregateId::from(found.document.saga.execution_id))
    }

    async fn by_execution(&self, text: &str) -> Result<SagaView, SagaError> {
        let id = runmesh_rpc::execution_id(text).map_err(|violation| SagaError::Invalid(vec![violation]))?;
        let loaded = self.load(&id.aggregate()).await?;
        let view = loaded.view();
        if !view.exists() {
            return Err(SagaError::ExecutionNotFound(text.to_owned()));
        }
        if !loaded.log().started() {
            // It is about to begin; its id, which is given out here, is known from now on.
            self.keep_begun(&view).await?;
        }
        Ok(view)
    }
}

/// An execution's log as far as it was read.
pub(crate) struct Loaded {
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) head: u64,
}

impl Loaded {
    pub(crate) fn log(&self) -> SagaLog {
        SagaLog::of(self.events.iter().map(AsRef::as_ref))
    }

    pub(crate) fn view(&self) -> SagaView {
        SagaView::of(self.events.iter().map(AsRef::as_ref))
    }

    pub(crate) fn first(&self) -> Option<&Arc<Event>> {
        self.events.first()
    }
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchSagaResponse, Status>> + Send>>;

#[tonic::async_trait]
impl saga_service_server::SagaService for SagaService {
    type WatchSagaStream = WatchStream;

    async fn get_saga(&self, request: Request<GetSagaRequest>) -> Result<Response<GetSagaResponse>, Status> {
        let text = &request.get_ref().saga_id;
        let aggregate = self.execution_of(text).await?;
        let view = self.load(&aggregate).await.map_err(SagaError::from)?.view();
        if !view.exists() {
            return Err(SagaError::NotFound(text.clone()).into());
        }
        Ok(Response::new(GetSagaResponse { saga: Some(view.saga().clone()) }))
    }

    async fn get_saga_by_execution(
        &self,
        request: Request<GetSagaByExecutionRequest>,
    ) -> Result<Response<GetSagaByExecutionResponse>, Status> {
        let view = self.by_execution(&request.get_ref().execution_id).await?;
        Ok(Response::new(GetSagaByExecutionResponse { saga: Some(view.saga().clone()) }))
    }

    async fn list_sagas(&self, request: Request<ListSagasRequest>) -> Result<Response<ListSagasResponse>, Status> {
        Ok(Response::new(list::list(self, request.into_inner()).await?))
    }

    async fn cancel_saga(&self, request: Request<CancelSagaRequest>) -> Result<Response<CancelSagaResponse>, Status> {
        let (caller, trace) = (caller_of(&request), trace_of(&request));
        let saga = cancel::cancel(self, &caller, &trace, request.into_inner()).await?;
        Ok(Response::new(CancelSagaResponse { saga: Some(saga) }))
    }

    async fn watch_saga(&self, request: Request<WatchSagaRequest>) -> Result<Response<WatchStream>, Status> {
        let stream = watch::watch(self, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }
}
