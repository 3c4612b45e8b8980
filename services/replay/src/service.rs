//! The gRPC service.

use std::{path::PathBuf, pin::Pin, sync::Arc};

use futures::Stream;
use runmesh_bus::{Bus, GroupTable};
use runmesh_proto::{
    google::api::HttpBody,
    replay::{
        CancelReplayRequest, CancelReplayResponse, CleanupReplaysRequest, CleanupReplaysResponse, CreateReplayRequest,
        CreateReplayResponse, DeleteReplayRequest, DeleteReplayResponse, ExportShadowReportRequest, GetReplayRequest,
        GetReplayResponse, GetShadowReportRequest, GetShadowReportResponse, ListReplaysRequest, ListReplaysResponse,
        PauseReplayRequest, PauseReplayResponse, PreviewReplayRequest, PreviewReplayResponse, ResumeReplayRequest,
        ResumeReplayResponse, StartReplayRequest, StartReplayResponse, WatchReplayRequest, WatchReplayResponse,
        replay_service_server::{self, ReplayServiceServer},
    },
};
use runmesh_store::{DocumentStore, Documents, EventStore, Rebuild, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    control,
    document::ReplayDocument,
    preview,
    session::Order,
    shadow,
    source::Sources,
    target::{Executions, Targets},
    view, watch,
};

/// How the service works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder for files of events. Processes that share the store have to share it too.
    pub folder: PathBuf,
    /// Topics beside those of event types that events may be sent to. They have to be there.
    pub topics: Vec<String>,
    /// How many replays one process carries on at a time.
    pub at_a_time: usize,
}

/// What the service stands on.
#[derive(Clone)]
pub struct Dependencies {
    /// The log.
    pub events: Arc<dyn EventStore>,
    /// Where replays are kept.
    pub documents: Arc<dyn DocumentStore>,
    /// Where events are published again.
    pub bus: Arc<dyn Bus>,
    /// The groups of the whole mesh.
    pub groups: Arc<dyn GroupTable>,
    /// The read models that can be built anew.
    pub read_models: Vec<Arc<dyn Rebuild>>,
    /// Ends the service's streams.
    pub shutdown: CancellationToken,
}

/// The service. Clones share everything.
#[derive(Clone)]
pub struct ReplayService {
    inner: Arc<Inner>,
}

/// What the service's parts share.
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) replays: Documents<ReplayDocument>,
    pub(crate) sources: Sources,
    pub(crate) targets: Targets,
    /// A replay was started or resumed.
    pub(crate) changed: Notify,
    pub(crate) shutdown: CancellationToken,
}

impl ReplayService {
    /// The service over these.
    ///
    /// # Errors
    /// When its collection can't be made.
    pub async fn build(settings: Settings, dependencies: Dependencies) -> Result<Self, StoreError> {
        let Dependencies { events, documents, bus, groups, read_models, shutdown } = dependencies;
        let replays = Documents::open(Arc::clone(&documents)).await?;
        let comparisons = Documents::open(documents).await?;
        let sources = Sources { events: Arc::clone(&events), folder: settings.folder.clone() };
        let (folder, executions) = (settings.folder.clone(), Arc::default());
        let read_models = read_models.into();
        let targets = Targets { bus, groups, folder, events, comparisons, executions, read_models };
        let inner = Inner { settings, replays, sources, targets, changed: Notify::new(), shutdown };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says how executions are run again. To be called once, before it runs; without it there are no reruns.
    pub fn reach_executions(&self, executions: Executions) {
        // A second call would be the same way.
        let _ = self.inner.targets.executions.set(executions);
    }

    /// Carries replays on until `shutdown`. Several processes of a store may do so at the same time.
    pub async fn run(&self, shutdown: CancellationToken) {
        self.inner.carry_replays_on(&shutdown).await;
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> ReplayServiceServer<Self> {
        ReplayServiceServer::new(self)
    }

    pub(crate) fn shared(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl replay_service_server::ReplayService for ReplayService {
    type WatchReplayStream = Streamed<WatchReplayResponse>;
    type ExportShadowReportStream = Streamed<HttpBody>;

    async fn create_replay(
        &self,
        request: Request<CreateReplayRequest>,
    ) -> Result<Response<CreateReplayResponse>, Status> {
        let replay = control::create(&self.inner, request.into_inner()).await?;
        Ok(Response::new(CreateReplayResponse { replay: Some(replay) }))
    }

    async fn preview_replay(
        &self,
        request: Request<PreviewReplayRequest>,
    ) -> Result<Response<PreviewReplayResponse>, Status> {
        let preview = preview::preview(&self.inner, request.into_inner().spec).await?;
        Ok(Response::new(PreviewReplayResponse { preview: Some(preview) }))
    }

    async fn start_replay(
        &self,
        request: Request<StartReplayRequest>,
    ) -> Result<Response<StartReplayResponse>, Status> {
        let StartReplayRequest { replay_id, actor, reason } = request.get_ref();
        let replay = control::order(&self.inner, Order::Start, (replay_id, actor, reason)).await?;
        Ok(Response::new(StartReplayResponse { replay: Some(replay) }))
    }

    async fn pause_replay(
        &self,
        request: Request<PauseReplayRequest>,
    ) -> Result<Response<PauseReplayResponse>, Status> {
        let PauseReplayRequest { replay_id, actor, reason } = request.get_ref();
        let replay = control::order(&self.inner, Order::Pause, (replay_id, actor, reason)).await?;
        Ok(Response::new(PauseReplayResponse { replay: Some(replay) }))
    }

    async fn resume_replay(
        &self,
        request: Request<ResumeReplayRequest>,
    ) -> Result<Response<ResumeReplayResponse>, Status> {
        let ResumeReplayRequest { replay_id, actor, reason } = request.get_ref();
        let replay = control::order(&self.inner, Order::Resume, (replay_id, actor, reason)).await?;
        Ok(Response::new(ResumeReplayResponse { replay: Some(replay) }))
    }

    async fn cancel_replay(
        &self,
        request: Request<CancelReplayRequest>,
    ) -> Result<Response<CancelReplayResponse>, Status> {
        let CancelReplayRequest { replay_id, actor, reason } = request.get_ref();
        let replay = control::order(&self.inner, Order::Cancel, (replay_id, actor, reason)).await?;
        Ok(Response::new(CancelReplayResponse { replay: Some(replay) }))
    }

    async fn get_replay(&self, request: Request<GetReplayRequest>) -> Result<Response<GetReplayResponse>, Status> {
        let replay = control::get(&self.inner, &request.get_ref().replay_id).await?;
        Ok(Response::new(GetReplayResponse { replay: Some(replay) }))
    }

    async fn list_replays(
        &self,
        request: Request<ListReplaysRequest>,
    ) -> Result<Response<ListReplaysResponse>, Status> {
        Ok(Response::new(control::list(&self.inner, request.into_inner()).await?))
    }

    async fn delete_replay(
        &self,
        request: Request<DeleteReplayRequest>,
    ) -> Result<Response<DeleteReplayResponse>, Status> {
        let DeleteReplayRequest { replay_id, actor, reason } = request.get_ref();
        control::delete(&self.inner, (replay_id, actor, reason)).await?;
        Ok(Response::new(DeleteReplayResponse {}))
    }

    async fn cleanup_replays(
        &self,
        request: Request<CleanupReplaysRequest>,
    ) -> Result<Response<CleanupReplaysResponse>, Status> {
        let removed = control::cleanup(&self.inner, request.into_inner()).await?;
        Ok(Response::new(CleanupReplaysResponse { removed: view::number(removed) }))
    }

    async fn watch_replay(
        &self,
        request: Request<WatchReplayRequest>,
    ) -> Result<Response<Self::WatchReplayStream>, Status> {
        let stream = watch::watch(self, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_shadow_report(
        &self,
        request: Request<GetShadowReportRequest>,
    ) -> Result<Response<GetShadowReportResponse>, Status> {
        Ok(Response::new(shadow::report(&self.inner, request.into_inner()).await?))
    }

    async fn export_shadow_report(
        &self,
        request: Request<ExportShadowReportRequest>,
    ) -> Result<Response<Self::ExportShadowReportStream>, Status> {
        let stream = shadow::export(self.shared(), request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }
}
