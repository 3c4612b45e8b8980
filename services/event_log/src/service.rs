//! The gRPC service.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_stream::try_stream;
use futures::{Stream, StreamExt as _};
use runmesh_events::{from_duration, from_timestamp};
use runmesh_proto::{
    event_log::{
        DeleteEventRequest, DeleteEventResponse, ExportEventsRequest, GetEventRequest, GetEventResponse,
        GetEventStatsRequest, GetEventStatsResponse, QueryEventsRequest, QueryEventsResponse, TailEventsRequest,
        TailEventsResponse, VerifyRequest, VerifyResponse,
        event_log_service_server::{self, EventLogServiceServer},
    },
    google::api::HttpBody,
};
use runmesh_rpc::{Violation, status, trace_of};
use runmesh_store::{Documents, EventStore, StoreError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    Verifier, VerifyOptions,
    delete::{self, ArchivedEvent},
    export, query, related, stats, tail,
    verifier::END,
};

/// The greatest patience that can be asked for.
const MAX_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// The greatest number of findings of each kind that can be asked for.
const MAX_FINDINGS: usize = 10_000;

/// How long a client should wait before it asks again for a verification while another runs.
const BUSY: Duration = Duration::from_secs(5);

/// How long a client should wait before it asks another node.
const ELSEWHERE: Duration = Duration::from_millis(500);

/// The service. Clones share everything.
#[derive(Clone)]
pub struct EventLogService {
    verifier: Verifier,
    /// One verification at a time: it reads everything.
    turn: Arc<Semaphore>,
    inner: Arc<Inner>,
}

/// What the service's parts share.
pub(crate) struct Inner {
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) archive: Documents<ArchivedEvent>,
    pub(crate) shutdown: CancellationToken,
}

impl EventLogService {
    /// The service over the store of a verifier. `shutdown` ends its streams.
    ///
    /// # Errors
    /// When the archive of deleted events can't be made.
    pub async fn build(verifier: Verifier, shutdown: CancellationToken) -> Result<Self, StoreError> {
        let archive = Documents::open(Arc::clone(&verifier.dependencies.documents)).await?;
        let inner = Inner { store: Arc::clone(&verifier.dependencies.store), archive, shutdown };
        Ok(Self { verifier, turn: Arc::new(Semaphore::new(1)), inner: Arc::new(inner) })
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> EventLogServiceServer<Self> {
        EventLogServiceServer::new(self)
    }
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl event_log_service_server::EventLogService for EventLogService {
    type VerifyStream = Streamed<VerifyResponse>;
    type ExportEventsStream = Streamed<HttpBody>;
    type TailEventsStream = Streamed<TailEventsResponse>;

    async fn query_events(
        &self,
        request: Request<QueryEventsRequest>,
    ) -> Result<Response<QueryEventsResponse>, Status> {
        Ok(Response::new(query::query(&self.inner, request.into_inner()).await?))
    }

    async fn get_event(&self, request: Request<GetEventRequest>) -> Result<Response<GetEventResponse>, Status> {
        let detail = related::get(&self.inner, &request.get_ref().event_id).await?;
        Ok(Response::new(GetEventResponse { detail: Some(detail) }))
    }

    async fn get_event_stats(
        &self,
        request: Request<GetEventStatsRequest>,
    ) -> Result<Response<GetEventStatsResponse>, Status> {
        let stats = stats::stats(&self.inner, request.into_inner()).await?;
        Ok(Response::new(GetEventStatsResponse { stats: Some(stats) }))
    }

    async fn export_events(
        &self,
        request: Request<ExportEventsRequest>,
    ) -> Result<Response<Self::ExportEventsStream>, Status> {
        let stream = export::export(Arc::clone(&self.inner), request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn tail_events(
        &self,
        request: Request<TailEventsRequest>,
    ) -> Result<Response<Self::TailEventsStream>, Status> {
        let stream = tail::tail(Arc::clone(&self.inner), request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn delete_event(
        &self,
        request: Request<DeleteEventRequest>,
    ) -> Result<Response<DeleteEventResponse>, Status> {
        let trace = trace_of(&request);
        Ok(Response::new(delete::delete(&self.inner, request.into_inner(), &trace).await?))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let request = request.into_inner();
        let options = options(&request)?;
        match request.cursor.as_str() {
            "" => {}
            END => return Ok(Response::new(Box::pin(futures::stream::empty()))),
            other => return Err(status::invalid_argument("cursor", format!("{other:?} is not the cursor of an end"))),
        }
        let permit = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| {
            let words = "another verification runs in this process";
            status::resource_exhausted("VERIFICATION_RUNNING", words, Some(BUSY))
        })?;
        let mut messages = Box::pin(self.verifier.verify(options));
        let shutdown = self.inner.shutdown.clone();
        Ok(Response::new(Box::pin(try_stream! {
            let _turn = permit;
            loop {
                let Some(next) = shutdown.run_until_cancelled(messages.next()).await else {
                    Err(status::unavailable("this node shuts down; ask another one", ELSEWHERE))?;
                    return;
                };
                let Some(message) = next else { return };
                yield message.map_err(Status::from)?;
            }
        })))
    }
}

/// What a request asks for.
fn options(request: &VerifyRequest) -> Result<VerifyOptions, Status> {
    let mut options = VerifyOptions::default();
    let mut violations = Vec::new();
    if let Some(since) = &request.since {
        match from_timestamp(since) {
            Some(since) if since <= SystemTime::now() => options.since = Some(since),
            Some(_) => violations.push(Violation::new("since", "lies in the future")),
            None => violations.push(Violation::new("since", "is not a time from 1970 to 9999")),
        }
    }
    if let Some(patience) = &request.patience {
        match from_duration(patience).filter(|patience| *patience <= MAX_PATIENCE) {
            Some(patience) => options.patience = patience,
            None => violations.push(Violation::new("patience", "has to be from 0 to 24 hours")),
        }
    }
    match usize::try_from(request.max_findings) {
        Ok(0) => {}
        Ok(findings) if findings <= MAX_FINDINGS => options.max_findings = findings,
        _ => violations.push(Violation::new("max_findings", format!("has to be from 0 to {MAX_FINDINGS}"))),
    }
    if violations.is_empty() { Ok(options) } else { Err(status::invalid_arguments(violations)) }
}
