//! An execution service that answers by the id it is asked for, and a gateway in front of it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use runmesh_events::Payload;
use runmesh_gateway::{Gateway, GatewayConfig};
use runmesh_proto::{
    event::{Event, ExecutionOutput, OutputStream},
    execution::{
        execution_service_server::{ExecutionService, ExecutionServiceServer},
        watch_execution_response::Item,
        *,
    },
};
use runmesh_rpc::{AccessPolicy, MAX_REQUEST_BYTES, RpcServer, Secret, ServerConfig, status, trace_of};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tonic::{Request, Response, Status};

use crate::letters::FakeLetters;

/// What the tests look at from outside.
#[derive(Default)]
pub(crate) struct Seen {
    /// Streams that were dropped.
    pub(crate) dropped: Notify,
    /// Lets the slow stream end.
    pub(crate) release: Notify,
    /// Messages that the endless stream has made.
    pub(crate) produced: AtomicUsize,
}

/// Tells when a stream is dropped.
pub(crate) struct OnDrop(pub(crate) Arc<Seen>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

struct Fake(Arc<Seen>);

fn execution(id: &str) -> Option<Execution> {
    Some(Execution { execution_id: id.to_owned(), exit_code: Some(0), last_sequence: u64::MAX, ..Default::default() })
}

fn message(sequence: u64) -> WatchExecutionResponse {
    let payload = Payload::ExecutionOutput(ExecutionOutput {
        stream: OutputStream::Stdout.into(),
        data: vec![0xff, b'\n', 0xf0].into(),
        ..Default::default()
    });
    let event = Event { sequence, payload: Some(payload), ..Default::default() };
    WatchExecutionResponse { cursor: sequence.to_string(), item: Some(Item::Event(event)) }
}

fn end(id: &str) -> WatchExecutionResponse {
    WatchExecutionResponse {
        cursor: "end".to_owned(),
        item: Some(Item::End(ExecutionEnd { execution: execution(id) })),
    }
}

type Watch = Pin<Box<dyn Stream<Item = Result<WatchExecutionResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ExecutionService for Fake {
    /// Answers with what it got.
    async fn create_execution(
        &self,
        request: Request<CreateExecutionRequest>,
    ) -> Result<Response<CreateExecutionResponse>, Status> {
        let trace = trace_of(&request);
        let request = request.into_inner();
        let execution = Execution {
            execution_id: request.request_id,
            spec: request.spec,
            error_message: format!("{:032x}", trace.trace_id()),
            ..Default::default()
        };
        Ok(Response::new(CreateExecutionResponse { execution: Some(execution) }))
    }

    async fn get_execution(
        &self,
        request: Request<GetExecutionRequest>,
    ) -> Result<Response<GetExecutionResponse>, Status> {
        let id = request.into_inner().execution_id;
        match id.as_str() {
            "missing" => Err(status::not_found("execution", &id)),
            "hangs" => std::future::pending().await,
            "busy" => Err(status::resource_exhausted("QUEUE_FULL", "the queue is full", Some(Duration::from_secs(7)))),
            _ => Ok(Response::new(GetExecutionResponse { execution: execution(&id) })),
        }
    }

    /// Answers with the filters in the token.
    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let request = request.into_inner();
        let next_page_token = format!("{} {:?} {:?}", request.page_size, request.state(), request.labels);
        Ok(Response::new(ListExecutionsResponse { executions: Vec::new(), next_page_token }))
    }

    async fn cancel_execution(
        &self,
        request: Request<CancelExecutionRequest>,
    ) -> Result<Response<CancelExecutionResponse>, Status> {
        let request = request.into_inner();
        let execution =
            Execution { execution_id: request.execution_id, error_message: request.reason, ..Default::default() };
        Ok(Response::new(CancelExecutionResponse { execution: Some(execution) }))
    }

    async fn retry_execution(
        &self,
        _: Request<RetryExecutionRequest>,
    ) -> Result<Response<RetryExecutionResponse>, Status> {
        Err(status::failed_precondition("NOT_ENDED", "the execution has not ended"))
    }

    async fn delete_execution(
        &self,
        _: Request<DeleteExecutionRequest>,
    ) -> Result<Response<DeleteExecutionResponse>, Status> {
        Ok(Response::new(DeleteExecutionResponse {}))
    }

    async fn wait_execution(
        &self,
        _: Request<WaitExecutionRequest>,
    ) -> Result<Response<WaitExecutionResponse>, Status> {
        Err(status::internal(&std::io::Error::other("secret path")))
    }

    type WatchExecutionStream = Watch;

    async fn watch_execution(&self, request: Request<WatchExecutionRequest>) -> Result<Response<Watch>, Status> {
        let WatchExecutionRequest { execution_id: id, cursor } = request.into_inner();
        let guard = OnDrop(self.0.clone());
        let seen = self.0.clone();
        let stream: Watch = match id.as_str() {
            "missing" => return Err(status::not_found("execution", &id)),
            "slow" => Box::pin(
                futures::stream::once(async move { seen.release.notified().await })
                    .filter_map(|()| std::future::ready(None)),
            ),
            "idle" => Box::pin(futures::stream::pending()),
            "breaks" => Box::pin(futures::stream::iter([
                Ok(message(1)),
                Err(status::unavailable("restarting", Duration::from_secs(2))),
            ])),
            "truncated" => Box::pin(futures::stream::iter([Ok(message(1))])),
            "late" => Box::pin(futures::stream::iter([Ok(message(1))]).chain(futures::stream::pending())),
            "endless" => Box::pin(futures::stream::iter(1..).map(move |sequence| {
                seen.produced.fetch_add(1, Ordering::SeqCst);
                Ok(message(sequence))
            })),
            _ if cursor == "end" => Box::pin(futures::stream::empty()),
            _ => {
                let after: u64 = if cursor.is_empty() { 0 } else { cursor.parse().unwrap() };
                Box::pin(futures::stream::iter((after + 1..=3).map(message).chain([end(&id)]).map(Ok)))
            }
        };
        Ok(Response::new(Box::pin(stream.map(move |item| {
            let _guard = &guard;
            item
        }))))
    }

    type RunCasesStream = Pin<Box<dyn Stream<Item = Result<RunCasesResponse, Status>> + Send>>;

    async fn run_cases(&self, _: Request<RunCasesRequest>) -> Result<Response<Self::RunCasesStream>, Status> {
        Ok(Response::new(Box::pin(futures::stream::empty())))
    }

    async fn list_runtimes(&self, _: Request<ListRuntimesRequest>) -> Result<Response<ListRuntimesResponse>, Status> {
        Ok(Response::new(ListRuntimesResponse::default()))
    }

    async fn get_limits(&self, _: Request<GetLimitsRequest>) -> Result<Response<GetLimitsResponse>, Status> {
        Ok(Response::new(GetLimitsResponse { maximum_source_bytes: 9_007_199_254_740_993, ..Default::default() }))
    }

    async fn list_example_scripts(
        &self,
        _: Request<ListExampleScriptsRequest>,
    ) -> Result<Response<ListExampleScriptsResponse>, Status> {
        panic!("on purpose")
    }
}

/// A gateway whose upstream wants the same token.
async fn gateway(config: GatewayConfig) -> (Gateway, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let access = AccessPolicy { token: config.token.clone() };
    let server = RpcServer::builder(ServerConfig { access, ..ServerConfig::default() })
        .add_service(ExecutionServiceServer::new(Fake(seen.clone())).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(FakeLetters(seen.clone()))
        .build();
    let readiness = server.readiness();
    readiness.set_ready().await;
    let gateway = Gateway::new(config, server.local())
        .with_metrics(|| "up 1\n".to_owned())
        .with_readiness(move || readiness.is_ready());
    (gateway, seen)
}

/// A gateway without a listener.
pub(crate) async fn router() -> (axum::Router, Arc<Seen>) {
    let (gateway, seen) = gateway(GatewayConfig::default()).await;
    (gateway.router(), seen)
}

/// A gateway that runs.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) seen: Arc<Seen>,
    pub(crate) http: reqwest::Client,
    stop: Arc<Notify>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Starts a gateway.
    pub(crate) async fn start(config: GatewayConfig) -> Self {
        let (gateway, seen) = gateway(config).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let task =
            tokio::spawn(gateway.serve(listener, async move { stopped.notified().await }, Duration::from_secs(20)));
        Self { url, seen, http: reqwest::Client::new(), stop, task }
    }

    /// Starts a gateway without a token.
    pub(crate) async fn open() -> Self {
        Self::start(GatewayConfig::default()).await
    }

    /// Starts a gateway with the token `s3cret`.
    pub(crate) async fn closed() -> Self {
        Self::start(GatewayConfig { token: Some(Secret::new("s3cret")), ..Default::default() }).await
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, json: &str) -> reqwest::Response {
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        request.body(json.to_owned()).send().await.unwrap()
    }

    /// Begins to shut down.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Waits until the gateway has ended.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap().unwrap();
    }
}
