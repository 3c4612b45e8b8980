//! A gRPC client with what the tests do all the time.

use std::time::Duration;

use anyhow::{Context as _, bail};
use runmesh_proto::{
    dlq::dead_letter_service_client::DeadLetterServiceClient,
    execution::{
        CancelExecutionRequest, CreateExecutionRequest, Execution, ExecutionSpec, GetExecutionRequest,
        ListExecutionsRequest, RunCasesRequest, RunCasesResponse, WatchExecutionRequest, WatchExecutionResponse,
        execution_service_client::ExecutionServiceClient,
    },
    queue::queue_service_client::QueueServiceClient,
    replay::replay_service_client::ReplayServiceClient,
    result::{GetResultRequest, Result as ExecutionResult, result_service_client::ResultServiceClient},
};
use tonic::{Status, Streaming, transport::Channel};

use crate::{Transcript, wait::PATIENCE};

/// The greatest message that the tests accept, in bytes.
const MAX_MESSAGE: usize = 64 << 20;

/// The services of one mesh.
#[derive(Debug, Clone)]
pub struct Client {
    /// ExecutionService.
    pub executions: ExecutionServiceClient<Channel>,
    /// ResultService.
    pub results: ResultServiceClient<Channel>,
    /// QueueService.
    pub queue: QueueServiceClient<Channel>,
    /// DeadLetterService.
    pub dead_letters: DeadLetterServiceClient<Channel>,
    /// ReplayService.
    pub replays: ReplayServiceClient<Channel>,
}

impl Client {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When it can't.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        let endpoint = Channel::from_shared(format!("http://{address}"))?.connect_timeout(Duration::from_secs(10));
        let channel = endpoint.connect().await.with_context(|| format!("connecting to {address}"))?;
        Ok(Self {
            executions: ExecutionServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            results: ResultServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            queue: QueueServiceClient::new(channel.clone()),
            dead_letters: DeadLetterServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            replays: ReplayServiceClient::new(channel),
        })
    }

    /// A client of several instances of each service, each an address `host:port`.
    ///
    /// # Errors
    /// When an address has no meaning.
    pub fn balanced(executions: &[&str], results: &[&str]) -> anyhow::Result<Self> {
        let channel = |addresses: &[&str]| {
            let endpoints = addresses.iter().map(|address| {
                let endpoint = Channel::from_shared(format!("http://{address}"))?;
                anyhow::Ok(endpoint.connect_timeout(Duration::from_secs(2)))
            });
            Ok::<_, anyhow::Error>(Channel::balance_list(endpoints.collect::<anyhow::Result<Vec<_>>>()?.into_iter()))
        };
        Ok(Self {
            executions: ExecutionServiceClient::new(channel(executions)?).max_decoding_message_size(MAX_MESSAGE),
            results: ResultServiceClient::new(channel(results)?).max_decoding_message_size(MAX_MESSAGE),
            queue: QueueServiceClient::new(channel(executions)?),
            dead_letters: DeadLetterServiceClient::new(channel(executions)?),
            replays: ReplayServiceClient::new(channel(executions)?),
        })
    }

    /// Asks for a run.
    ///
    /// # Errors
    /// The server's.
    pub async fn create(&self, spec: ExecutionSpec) -> Result<Execution, Status> {
        let request = CreateExecutionRequest { request_id: String::new(), spec: Some(spec) };
        let response = self.executions.clone().create_execution(request).await?.into_inner();
        response.execution.ok_or_else(|| Status::internal("a response without the execution"))
    }

    /// Asks for a run and returns its id.
    ///
    /// # Errors
    /// The server's.
    pub async fn launch(&self, spec: ExecutionSpec) -> anyhow::Result<String> {
        Ok(self.create(spec).await?.execution_id)
    }

    /// The execution as it is.
    ///
    /// # Errors
    /// The server's.
    pub async fn get(&self, execution_id: &str) -> Result<Execution, Status> {
        let request = GetExecutionRequest { execution_id: execution_id.to_owned() };
        let response = self.executions.clone().get_execution(request).await?.into_inner();
        response.execution.ok_or_else(|| Status::internal("a response without the execution"))
    }

    /// The newest executions, at most 1,000.
    ///
    /// # Errors
    /// The server's.
    pub async fn list(&self) -> Result<Vec<Execution>, Status> {
        let request = ListExecutionsRequest { page_size: 1000, ..Default::default() };
        Ok(self.executions.clone().list_executions(request).await?.into_inner().executions)
    }

    /// Asks for the end of an execution.
    ///
    /// # Errors
    /// The server's.
    pub async fn cancel(&self, execution_id: &str, reason: &str) -> Result<Execution, Status> {
        let request = CancelExecutionRequest { execution_id: execution_id.to_owned(), reason: reason.to_owned() };
        let response = self.executions.clone().cancel_execution(request).await?.into_inner();
        response.execution.ok_or_else(|| Status::internal("a response without the execution"))
    }

    /// What an execution produced.
    ///
    /// # Errors
    /// The server's.
    pub async fn result(&self, execution_id: &str) -> Result<ExecutionResult, Status> {
        let request = GetResultRequest { execution_id: execution_id.to_owned() };
        let response = self.results.clone().get_result(request).await?.into_inner();
        response.result.ok_or_else(|| Status::internal("a response without the result"))
    }

    /// Watches an execution from a cursor on. Empty: from the start.
    ///
    /// # Errors
    /// The server's.
    pub async fn watch(&self, execution_id: &str, cursor: &str) -> Result<Watch, Status> {
        let request = WatchExecutionRequest { execution_id: execution_id.to_owned(), cursor: cursor.to_owned() };
        Ok(Watch { stream: self.executions.clone().watch_execution(request).await?.into_inner() })
    }

    /// Watches an execution from the start to its end.
    ///
    /// # Errors
    /// The server's; when the log is not complete, or not in time.
    pub async fn follow(&self, execution_id: &str) -> anyhow::Result<Transcript> {
        let mut watch = self.watch(execution_id, "").await?;
        let transcript = watch.rest().await?;
        transcript.complete().with_context(|| format!("the log of {execution_id}: {:?}", transcript.types()))?;
        Ok(transcript)
    }

    /// Runs a program on its cases, or resumes the stream of one.
    ///
    /// # Errors
    /// The server's.
    pub async fn run_cases(&self, request: RunCasesRequest) -> Result<Cases, Status> {
        Ok(Cases { stream: self.executions.clone().run_cases(request).await?.into_inner() })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// As [`Client::follow`].
    pub async fn run(&self, spec: ExecutionSpec) -> anyhow::Result<Transcript> {
        let execution_id = self.launch(spec).await?;
        self.follow(&execution_id).await
    }
}

/// An open watch.
#[derive(Debug)]
pub struct Watch {
    stream: Streaming<WatchExecutionResponse>,
}

impl Watch {
    /// The next message; `None` when the server ended the stream.
    ///
    /// # Errors
    /// When the stream breaks, or nothing comes for long.
    pub async fn next(&mut self) -> anyhow::Result<Option<WatchExecutionResponse>> {
        match tokio::time::timeout(PATIENCE, self.stream.message()).await {
            Ok(message) => Ok(message?),
            Err(_) => bail!("the watch brought nothing for {PATIENCE:?}"),
        }
    }

    /// The messages up to and with the first that fits.
    ///
    /// # Errors
    /// When the stream ends before.
    pub async fn until(&mut self, fits: impl Fn(&WatchExecutionResponse) -> bool) -> anyhow::Result<Transcript> {
        let mut transcript = Transcript::default();
        while let Some(message) = self.next().await? {
            let found = fits(&message);
            transcript.messages.push(message);
            if found {
                return Ok(transcript);
            }
        }
        bail!("the watch ended without what was waited for: {:?}", transcript.types())
    }

    /// All messages until the server ends the stream.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn rest(&mut self) -> anyhow::Result<Transcript> {
        let mut transcript = Transcript::default();
        while let Some(message) = self.next().await? {
            transcript.messages.push(message);
        }
        Ok(transcript)
    }
}

/// An open stream of the results of cases.
#[derive(Debug)]
pub struct Cases {
    stream: Streaming<RunCasesResponse>,
}

impl Cases {
    /// The next message; `None` when the server ended the stream.
    ///
    /// # Errors
    /// When the stream breaks, or nothing comes for long.
    pub async fn next(&mut self) -> anyhow::Result<Option<RunCasesResponse>> {
        match tokio::time::timeout(PATIENCE, self.stream.message()).await {
            Ok(message) => Ok(message?),
            Err(_) => bail!("the stream of results brought nothing for {PATIENCE:?}"),
        }
    }

    /// All messages until the server ends the stream.
    ///
    /// # Errors
    /// As [`Cases::next`].
    pub async fn rest(&mut self) -> anyhow::Result<Vec<RunCasesResponse>> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await? {
            messages.push(message);
        }
        Ok(messages)
    }
}

/// A Python script.
pub fn python(script: &str) -> ExecutionSpec {
    ExecutionSpec { language: "python".to_owned(), script: script.to_owned(), ..Default::default() }
}

/// A bash script.
pub fn bash(script: &str) -> ExecutionSpec {
    ExecutionSpec { language: "bash".to_owned(), script: script.to_owned(), ..Default::default() }
}
