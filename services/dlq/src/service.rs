//! The gRPC service.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use runmesh_bus::{Bus, DeadLetters, GroupTable, PausedGroups};
use runmesh_proto::{
    dlq::{
        CancelRedriveRequest, CancelRedriveResponse, DiscardDeadLettersRequest, DiscardDeadLettersResponse,
        EditAndRetryRequest, EditAndRetryResponse, ExportDeadLettersRequest, GetDeadLetterRequest,
        GetDeadLetterResponse, GetDlqStatsRequest, GetDlqStatsResponse, GetRedriveRequest, GetRedriveResponse,
        GetRetryPolicyRequest, GetRetryPolicyResponse, ListDeadLettersRequest, ListDeadLettersResponse,
        ListFailureGroupsRequest, ListFailureGroupsResponse, ListRedrivesRequest, ListRedrivesResponse,
        ListRetryPoliciesRequest, ListRetryPoliciesResponse, PauseRedriveRequest, PauseRedriveResponse,
        PlanRedriveRequest, PlanRedriveResponse, ResetRetryPolicyRequest, ResetRetryPolicyResponse,
        ResumeRedriveRequest, ResumeRedriveResponse, RetryDeadLettersRequest, RetryDeadLettersResponse,
        SetRetryPolicyRequest, SetRetryPolicyResponse, StartRedriveRequest, StartRedriveResponse,
        WatchDeadLettersRequest, WatchDeadLettersResponse, WatchRedriveRequest, WatchRedriveResponse,
        dead_letter_service_server::{self, DeadLetterServiceServer},
    },
    google::api::HttpBody,
};
use runmesh_rpc::trace_of;
use runmesh_store::{DocumentStore, Documents, EventStore, StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    act, counts, edit, export, list, policy,
    redrive::{self, PartDocument, RedriveDocument},
    watch,
};

/// What the service stands on.
#[derive(Clone)]
pub struct Dependencies {
    /// Where events are appended.
    pub events: Arc<dyn EventStore>,
    /// Where redrives are kept.
    pub documents: Arc<dyn DocumentStore>,
    /// Where letters are delivered again.
    pub bus: Arc<dyn Bus>,
    /// The letters, and the policies.
    pub letters: DeadLetters,
    /// Which groups are paused.
    pub paused: PausedGroups,
    /// The groups of the whole mesh.
    pub groups: Arc<dyn GroupTable>,
    /// Ends the service's streams.
    pub shutdown: CancellationToken,
}

/// The service. Clones share everything.
#[derive(Clone)]
pub struct DeadLetterService {
    inner: Arc<Inner>,
}

/// What the service's parts share.
pub(crate) struct Inner {
    pub(crate) events: Arc<dyn EventStore>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) letters: DeadLetters,
    pub(crate) paused: PausedGroups,
    pub(crate) redrives: Documents<RedriveDocument>,
    pub(crate) parts: Documents<PartDocument>,
    pub(crate) groups: Arc<dyn GroupTable>,
    pub(crate) redrive_changed: Notify,
    pub(crate) shutdown: CancellationToken,
}

impl DeadLetterService {
    /// The service over these.
    ///
    /// # Errors
    /// When its collections can't be made.
    pub async fn build(dependencies: Dependencies) -> Result<Self, StoreError> {
        let Dependencies { events, documents, bus, letters, paused, groups, shutdown } = dependencies;
        let redrives = Documents::open(Arc::clone(&documents)).await?;
        let parts = Documents::open(documents).await?;
        let redrive_changed = Notify::new();
        let inner = Inner { events, bus, letters, paused, redrives, parts, groups, redrive_changed, shutdown };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Does until `shutdown` what has to be done by itself: tells of failures, delivers what is due, carries redrives on.
    /// Several processes of a store may run it at the same time.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(self.inner.see_to_letters(&shutdown), self.inner.carry_redrives_on(&shutdown));
    }

    /// Sees to what is due at `now`, as [`DeadLetterService::run`] does. Returns how many letters that were.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn turn(&self, now: std::time::SystemTime) -> Result<usize, StoreError> {
        self.inner.turn(now).await
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> DeadLetterServiceServer<Self> {
        DeadLetterServiceServer::new(self)
    }

    pub(crate) fn shared(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl dead_letter_service_server::DeadLetterService for DeadLetterService {
    type WatchRedriveStream = Streamed<WatchRedriveResponse>;
    type WatchDeadLettersStream = Streamed<WatchDeadLettersResponse>;
    type ExportDeadLettersStream = Streamed<HttpBody>;

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        Ok(Response::new(list::list(&self.inner, request.into_inner()).await?))
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<GetDeadLetterResponse>, Status> {
        let detail = list::get(&self.inner, &request.get_ref().dead_letter_id).await?;
        Ok(Response::new(GetDeadLetterResponse { detail: Some(detail) }))
    }

    async fn list_failure_groups(
        &self,
        request: Request<ListFailureGroupsRequest>,
    ) -> Result<Response<ListFailureGroupsResponse>, Status> {
        Ok(Response::new(counts::failure_groups(&self.inner, request.into_inner()).await?))
    }

    async fn get_dlq_stats(&self, _: Request<GetDlqStatsRequest>) -> Result<Response<GetDlqStatsResponse>, Status> {
        Ok(Response::new(counts::stats(&self.inner).await?))
    }

    async fn retry_dead_letters(
        &self,
        request: Request<RetryDeadLettersRequest>,
    ) -> Result<Response<RetryDeadLettersResponse>, Status> {
        let RetryDeadLettersRequest { dead_letter_ids, actor, reason } = request.get_ref();
        let results = act::retry(&self.inner, dead_letter_ids, actor, reason).await?;
        Ok(Response::new(RetryDeadLettersResponse { results }))
    }

    async fn discard_dead_letters(
        &self,
        request: Request<DiscardDeadLettersRequest>,
    ) -> Result<Response<DiscardDeadLettersResponse>, Status> {
        let DiscardDeadLettersRequest { dead_letter_ids, actor, reason } = request.get_ref();
        let results = act::discard(&self.inner, dead_letter_ids, actor, reason).await?;
        Ok(Response::new(DiscardDeadLettersResponse { results }))
    }

    async fn edit_and_retry(
        &self,
        request: Request<EditAndRetryRequest>,
    ) -> Result<Response<EditAndRetryResponse>, Status> {
        let letter = edit::edit_and_retry(&self.inner, request.into_inner()).await?;
        Ok(Response::new(EditAndRetryResponse { dead_letter: Some(letter) }))
    }

    async fn plan_redrive(
        &self,
        request: Request<PlanRedriveRequest>,
    ) -> Result<Response<PlanRedriveResponse>, Status> {
        let plan = redrive::plan(&self.inner, request.into_inner()).await?;
        Ok(Response::new(PlanRedriveResponse { plan: Some(plan) }))
    }

    async fn start_redrive(
        &self,
        request: Request<StartRedriveRequest>,
    ) -> Result<Response<StartRedriveResponse>, Status> {
        let trace = trace_of(&request);
        let redrive = redrive::start(&self.inner, request.into_inner(), &trace).await?;
        Ok(Response::new(StartRedriveResponse { redrive: Some(redrive) }))
    }

    async fn pause_redrive(
        &self,
        request: Request<PauseRedriveRequest>,
    ) -> Result<Response<PauseRedriveResponse>, Status> {
        let (trace, request) = (trace_of(&request), request.into_inner());
        let who = (request.redrive_id.as_str(), request.actor.as_str(), request.reason.as_str());
        let redrive = redrive::pause(&self.inner, who, &request, &trace).await?;
        Ok(Response::new(PauseRedriveResponse { redrive: Some(redrive) }))
    }

    async fn resume_redrive(
        &self,
        request: Request<ResumeRedriveRequest>,
    ) -> Result<Response<ResumeRedriveResponse>, Status> {
        let (trace, request) = (trace_of(&request), request.into_inner());
        let who = (request.redrive_id.as_str(), request.actor.as_str(), request.reason.as_str());
        let redrive = redrive::resume(&self.inner, who, &request, &trace).await?;
        Ok(Response::new(ResumeRedriveResponse { redrive: Some(redrive) }))
    }

    async fn cancel_redrive(
        &self,
        request: Request<CancelRedriveRequest>,
    ) -> Result<Response<CancelRedriveResponse>, Status> {
        let (trace, request) = (trace_of(&request), request.into_inner());
        let who = (request.redrive_id.as_str(), request.actor.as_str(), request.reason.as_str());
        let redrive = redrive::cancel(&self.inner, who, &request, &trace).await?;
        Ok(Response::new(CancelRedriveResponse { redrive: Some(redrive) }))
    }

    async fn get_redrive(&self, request: Request<GetRedriveRequest>) -> Result<Response<GetRedriveResponse>, Status> {
        let redrive = redrive::get(&self.inner, &request.get_ref().redrive_id).await?;
        Ok(Response::new(GetRedriveResponse { redrive: Some(redrive) }))
    }

    async fn list_redrives(
        &self,
        request: Request<ListRedrivesRequest>,
    ) -> Result<Response<ListRedrivesResponse>, Status> {
        Ok(Response::new(redrive::list(&self.inner, request.into_inner()).await?))
    }

    async fn watch_redrive(
        &self,
        request: Request<WatchRedriveRequest>,
    ) -> Result<Response<Self::WatchRedriveStream>, Status> {
        let stream = redrive::watch(self, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_retry_policies(
        &self,
        _: Request<ListRetryPoliciesRequest>,
    ) -> Result<Response<ListRetryPoliciesResponse>, Status> {
        Ok(Response::new(ListRetryPoliciesResponse { policies: policy::list(&self.inner).await? }))
    }

    async fn get_retry_policy(
        &self,
        request: Request<GetRetryPolicyRequest>,
    ) -> Result<Response<GetRetryPolicyResponse>, Status> {
        let GetRetryPolicyRequest { event_type, group } = request.get_ref();
        let policy = policy::get(&self.inner, *event_type, group).await?;
        Ok(Response::new(GetRetryPolicyResponse { policy: Some(policy) }))
    }

    async fn set_retry_policy(
        &self,
        request: Request<SetRetryPolicyRequest>,
    ) -> Result<Response<SetRetryPolicyResponse>, Status> {
        let trace = trace_of(&request);
        let policy = policy::set(&self.inner, request.into_inner(), &trace).await?;
        Ok(Response::new(SetRetryPolicyResponse { policy: Some(policy) }))
    }

    async fn reset_retry_policy(
        &self,
        request: Request<ResetRetryPolicyRequest>,
    ) -> Result<Response<ResetRetryPolicyResponse>, Status> {
        let trace = trace_of(&request);
        let policy = policy::reset(&self.inner, request.into_inner(), &trace).await?;
        Ok(Response::new(ResetRetryPolicyResponse { policy: Some(policy) }))
    }

    async fn watch_dead_letters(
        &self,
        request: Request<WatchDeadLettersRequest>,
    ) -> Result<Response<Self::WatchDeadLettersStream>, Status> {
        let stream = watch::watch(self, request.into_inner())?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn export_dead_letters(
        &self,
        request: Request<ExportDeadLettersRequest>,
    ) -> Result<Response<Self::ExportDeadLettersStream>, Status> {
        let stream = export::export(self, request.into_inner())?;
        Ok(Response::new(Box::pin(stream)))
    }
}
