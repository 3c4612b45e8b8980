//! The gRPC service: each method checks its request and hands it on.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use runmesh_events::{AggregateId, Event, ExecutionId, to_duration};
use runmesh_proto::event::{Enforcement, EnforcementLevel, LimitKind};
use runmesh_proto::execution::{
    CancelExecutionRequest, CancelExecutionResponse, CreateExecutionRequest, CreateExecutionResponse,
    DeleteExecutionRequest, DeleteExecutionResponse, Execution, GetExecutionRequest, GetExecutionResponse,
    GetLimitsRequest, GetLimitsResponse, Limits, ListExampleScriptsRequest, ListExampleScriptsResponse,
    ListExecutionsRequest, ListExecutionsResponse, ListRuntimesRequest, ListRuntimesResponse, RetryExecutionRequest,
    RetryExecutionResponse, RunCasesRequest, RunCasesResponse, Runtime, UnavailableRuntime, WaitExecutionRequest,
    WaitExecutionResponse, WatchExecutionRequest, WatchExecutionResponse,
    execution_service_server::{self, ExecutionServiceServer},
};
use runmesh_rpc::{MAX_REQUEST_BYTES, caller_of, trace_of};
use runmesh_store::{DocumentStore, EventStore, ReadModel, StoreError, read_log};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    Erasure, ExecutionConfig, cancel, cases, create, delete,
    document::{self, Summary},
    error::ExecutionError,
    examples, list,
    state::{ExecutionLog, TYPES},
    wait, watch,
};

/// The producer's name in events that the service records.
pub(crate) const PRODUCER: &str = "execution";

/// The runtimes that executions may ask for.
pub trait Runtimes: Send + Sync + 'static {
    /// All of them, by language and then newest first.
    fn list(&self) -> Vec<Runtime>;
    /// The newest one of a language whose version is, or begins with, this one.
    fn resolve(&self, language: &str, version: &str) -> Option<Runtime>;
    /// The name of a language by its name or an alias, whether or not it has a runtime here. `None`: it is not known.
    fn name_of(&self, language: &str) -> Option<String>;
    /// The languages that are known and have no runtime here.
    fn unavailable(&self) -> Vec<UnavailableRuntime>;
    /// What the runner would hold of these limits, by what, and what not and why.
    fn receipt(&self, limits: &Limits) -> Vec<Enforcement>;
    /// Whether every request is taken for a strict one.
    fn strict(&self) -> bool;
}

/// What the service works with.
pub struct Dependencies {
    /// The event store.
    pub store: Arc<dyn EventStore>,
    /// The document store.
    pub documents: Arc<dyn DocumentStore>,
    /// The runtimes.
    pub runtimes: Arc<dyn Runtimes>,
    /// What else is removed with an execution.
    pub erasures: Vec<Arc<dyn Erasure>>,
    /// Ends streams and waits when the node shuts down.
    pub shutdown: CancellationToken,
}

/// The service. Clones share everything.
#[derive(Clone)]
pub struct ExecutionService {
    inner: Arc<Inner>,
}

struct Inner {
    config: ExecutionConfig,
    dependencies: Dependencies,
    summaries: ReadModel<Summary>,
}

impl ExecutionService {
    /// The service with these settings over these stores.
    ///
    /// # Errors
    /// When the collections of executions can't be made.
    pub async fn build(config: ExecutionConfig, dependencies: Dependencies) -> Result<Self, StoreError> {
        let summaries = document::open(Arc::clone(&dependencies.documents)).await?;
        Ok(Self { inner: Arc::new(Inner { config, dependencies, summaries }) })
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> ExecutionServiceServer<Self> {
        ExecutionServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    pub(crate) fn config(&self) -> &ExecutionConfig {
        &self.inner.config
    }

    pub(crate) fn runtimes(&self) -> &dyn Runtimes {
        self.inner.dependencies.runtimes.as_ref()
    }

    pub(crate) fn store(&self) -> &dyn EventStore {
        self.inner.dependencies.store.as_ref()
    }

    pub(crate) fn shared_store(&self) -> Arc<dyn EventStore> {
        Arc::clone(&self.inner.dependencies.store)
    }

    pub(crate) fn summaries(&self) -> &ReadModel<Summary> {
        &self.inner.summaries
    }

    pub(crate) fn erasures(&self) -> &[Arc<dyn Erasure>] {
        &self.inner.dependencies.erasures
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.inner.dependencies.shutdown
    }

    /// The execution of this id as its log has it, the log's first event, and the sequence up to which it was read.
    pub(crate) async fn load(&self, id: &ExecutionId) -> Result<Loaded, ExecutionError> {
        let aggregate = id.aggregate();
        let (events, head) = read_log(self.store(), &aggregate, &TYPES).await?;
        let log = ExecutionLog::of(events.iter().map(AsRef::as_ref));
        match events.into_iter().next() {
            Some(first) if log.exists() => Ok(Loaded { aggregate, log, first, head }),
            _ => Err(ExecutionError::NotFound(id.to_string())),
        }
    }
}

/// An execution's log as far as it was read.
pub(crate) struct Loaded {
    pub(crate) aggregate: AggregateId,
    pub(crate) log: ExecutionLog,
    pub(crate) first: Arc<Event>,
    pub(crate) head: u64,
}

impl Loaded {
    /// The execution, with the log's newest sequence.
    pub(crate) fn execution(&self) -> Execution {
        Execution { last_sequence: self.head, ..self.log.execution().clone() }
    }
}

/// Reads the id of an execution from a request.
pub(crate) fn execution_id(text: &str) -> Result<ExecutionId, ExecutionError> {
    runmesh_rpc::execution_id(text).map_err(|violation| ExecutionError::Invalid(vec![violation]))
}

/// Whether something was asked for that does not hold in full.
pub fn is_missing(line: &Enforcement) -> bool {
    line.level() != EnforcementLevel::Full && !line.asked.is_empty()
}

/// The field of `Limits`, or what else is held.
pub fn api_name(limit: LimitKind) -> &'static str {
    match limit {
        LimitKind::Unspecified => "",
        LimitKind::WallTime => "wall_time",
        LimitKind::CpuTime => "cpu_time",
        LimitKind::Cpu => "cpu_millis",
        LimitKind::Memory => "memory_bytes",
        LimitKind::Processes => "processes",
        LimitKind::Output => "output_bytes",
        LimitKind::FileSize => "file_bytes",
        LimitKind::Disk => "disk_bytes",
        LimitKind::Network => "network",
        LimitKind::Filesystem => "filesystem",
        LimitKind::Syscalls => "syscalls",
    }
}

type CasesStream = Pin<Box<dyn Stream<Item = Result<RunCasesResponse, Status>> + Send>>;
type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchExecutionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl execution_service_server::ExecutionService for ExecutionService {
    type WatchExecutionStream = WatchStream;
    type RunCasesStream = CasesStream;

    async fn create_execution(
        &self,
        request: Request<CreateExecutionRequest>,
    ) -> Result<Response<CreateExecutionResponse>, Status> {
        let (caller, trace) = (caller_of(&request), trace_of(&request));
        let execution = create::create(self, &caller, &trace, request.into_inner()).await?;
        Ok(Response::new(CreateExecutionResponse { execution: Some(execution) }))
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        let id = execution_id(&request.get_ref().execution_id)?;
        let loaded = self.load(&id).await?;
        Ok(Response::new(GetExecutionResponse { execution: Some(loaded.execution()) }))
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        Ok(Response::new(list::list(self, request.into_inner()).await?))
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        let (caller, trace) = (caller_of(&request), trace_of(&request));
        let execution = cancel::cancel(self, &caller, &trace, request.into_inner()).await?;
        Ok(Response::new(CancelExecutionResponse { execution: Some(execution) }))
    }

    async fn retry_execution(
        &self,
        request: Request<RetryExecutionRequest>,
    ) -> Result<Response<RetryExecutionResponse>, Status> {
        let (caller, trace) = (caller_of(&request), trace_of(&request));
        let execution = create::retry(self, &caller, &trace, request.into_inner()).await?;
        Ok(Response::new(RetryExecutionResponse { execution: Some(execution) }))
    }

    async fn delete_execution(
        &self,
        request: Request<DeleteExecutionRequest>,
    ) -> Result<Response<DeleteExecutionResponse>, Status> {
        delete::delete(self, request.into_inner()).await?;
        Ok(Response::new(DeleteExecutionResponse {}))
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<WaitExecutionResponse>, Status> {
        let execution = wait::wait(self, request.into_inner()).await?;
        Ok(Response::new(WaitExecutionResponse { execution: Some(execution) }))
    }

    async fn watch_execution(&self, request: Request<WatchExecutionRequest>) -> Result<Response<WatchStream>, Status> {
        let stream = watch::watch(self, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn run_cases(&self, request: Request<RunCasesRequest>) -> Result<Response<CasesStream>, Status> {
        let (caller, trace) = (caller_of(&request), trace_of(&request));
        let stream = cases::run(self, &caller, &trace, request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_runtimes(
        &self,
        _request: Request<ListRuntimesRequest>,
    ) -> Result<Response<ListRuntimesResponse>, Status> {
        Ok(Response::new(ListRuntimesResponse {
            runtimes: self.runtimes().list(),
            unavailable: self.runtimes().unavailable(),
        }))
    }

    async fn get_limits(&self, _request: Request<GetLimitsRequest>) -> Result<Response<GetLimitsResponse>, Status> {
        let config = self.config();
        let receipt = self.runtimes().receipt(&config.default_limits.to_proto());
        let full = receipt.iter().filter(|line| line.level() == EnforcementLevel::Full);
        Ok(Response::new(GetLimitsResponse {
            default_limits: Some(config.default_limits.to_proto()),
            maximum_limits: Some(config.maximum_limits.to_proto()),
            enforced: full.map(|line| api_name(line.limit()).to_owned()).collect(),
            receipt,
            maximum_source_bytes: i64::try_from(config.maximum_source_bytes).unwrap_or(i64::MAX),
            maximum_files: i32::try_from(config.maximum_files).unwrap_or(i32::MAX),
            default_compile_limits: Some(config.default_compile_limits.to_proto()),
            maximum_cases: i32::try_from(config.maximum_cases).unwrap_or(i32::MAX),
            maximum_cases_wall_time: Some(to_duration(config.maximum_cases_wall_time)),
        }))
    }

    async fn list_example_scripts(
        &self,
        _request: Request<ListExampleScriptsRequest>,
    ) -> Result<Response<ListExampleScriptsResponse>, Status> {
        Ok(Response::new(ListExampleScriptsResponse { scripts: examples::scripts() }))
    }
}
