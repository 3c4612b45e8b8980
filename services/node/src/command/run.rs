//! `runmesh run`: one script, its output as it comes, its verdict, its exit code.

mod cases;
mod cases_file;
mod ending;
mod following;

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use bytes::Bytes;
use runmesh_events::{Payload, to_duration};
use runmesh_proto::{
    event::{ExecutionStep, OutputStream},
    execution::{
        CreateExecutionRequest, Execution, ExecutionSpec, ExecutionState, Limits, WatchExecutionRequest,
        WatchExecutionResponse, execution_service_client::ExecutionServiceClient, watch_execution_response::Item,
    },
};
use runmesh_runner::{Runtimes, Search};
use tonic::{Status, Streaming, service::interceptor::InterceptedService};

use self::{
    cases::Cases,
    following::{Channel, Followed, follow},
};
use super::{
    connect, print,
    serve::{Stop, settings},
};
use crate::{
    Environment, Listeners, Node, Role, Roles,
    cli::{LimitArgs, RunArgs},
    telemetry::Telemetry,
};

/// Exit codes beside the script's own, as those of `timeout` and of a shell.
mod exit {
    pub(super) const FAILED: u8 = 1;
    pub(super) const TIMED_OUT: u8 = 124;
    pub(super) const CANCELLED: u8 = 130;
}

pub(super) async fn run(args: RunArgs, environment: &Environment) -> anyhow::Result<ExitCode> {
    let spec = spec(&args, environment).await?;
    let mut stop = Stop::listen()?;
    if args.server.server.is_some() {
        let (channel, credentials) = connect(&args.server).await?;
        let client = ExecutionServiceClient::new(InterceptedService::new(channel, credentials));
        return start(client, spec, args.json, &mut stop).await;
    }
    // An own node, without listeners; its data goes with it unless a folder is named.
    let mut config = settings(&args.config, environment, None, &[("log.filter", "warn")])?;
    let folder;
    if config.data.as_os_str().is_empty() {
        folder = tempfile::Builder::new().prefix("runmesh-").tempdir()?;
        config.data = folder.path().to_owned();
    }
    let telemetry = Telemetry::install(&config)?;
    let roles = Roles::of(Role::ALL.into_iter().filter(|role| *role != Role::Gateway));
    let mut node = Node::start(&config, environment, &roles, Listeners::default(), None).await?;
    let client = ExecutionServiceClient::new(node.local());
    let result = tokio::select! {
        result = start(client, spec, args.json, &mut stop) => result,
        error = node.failed() => Err(error.into()),
    };
    tokio::select! {
        () = node.shutdown() => {}
        () = stop.asked() => anyhow::bail!("stopped before everything had ended"),
    }
    telemetry.shutdown();
    result
}

async fn spec(args: &RunArgs, environment: &Environment) -> anyhow::Result<ExecutionSpec> {
    let script = std::fs::read_to_string(&args.file)
        .with_context(|| format!("can't read the script {}", args.file.display()))?;
    let language = match &args.language {
        Some(language) => language.clone(),
        None => language_of(&args.file, environment).await?,
    };
    let stdin = match args.stdin.as_deref() {
        None => Vec::new(),
        Some(path) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("can't read standard input")?;
            bytes
        }
        Some(path) => std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?,
    };
    let variables = args.environment.iter().map(|entry| {
        let (name, value) =
            entry.split_once('=').with_context(|| format!("--env {entry:?} is not of the form NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let mut spec = ExecutionSpec {
        language,
        language_version: args.language_version.clone(),
        script,
        entrypoint: args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        args: args.args.clone(),
        stdin: Bytes::from(stdin),
        environment: variables.collect::<anyhow::Result<_>>()?,
        limits: Some(limits(&args.limits)),
        strict: args.strict,
        ..ExecutionSpec::default()
    };
    if let Some(cases) = &args.cases {
        cases_file::add(cases, &mut spec)?;
    }
    Ok(spec)
}

/// The limits that are asked for; 0 stands for the default.
pub(super) fn limits(args: &LimitArgs) -> Limits {
    Limits {
        wall_time: args.timeout.map(to_duration),
        cpu_time: args.cpu_time.map(to_duration),
        cpu_millis: args.cpus.unwrap_or_default(),
        memory_bytes: args.memory.unwrap_or_default(),
        processes: args.processes.unwrap_or_default(),
        disk_bytes: args.disk.unwrap_or_default(),
        file_bytes: args.file_size.unwrap_or_default(),
        output_bytes: args.output_size.unwrap_or_default(),
    }
}

async fn language_of(file: &Path, environment: &Environment) -> anyhow::Result<String> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // Only the registry is asked, not the machine: the script may run elsewhere.
    let registry = Runtimes::discover(&Search { home: environment.home.clone(), ..Search::default() }).await?;
    registry
        .language_of(&name)
        .map(ToOwned::to_owned)
        .with_context(|| format!("can't tell the language of {name:?} by its extension; name it with --language"))
}

/// Runs it, on its cases if it has any.
async fn start<T: Channel>(
    mut client: ExecutionServiceClient<T>,
    spec: ExecutionSpec,
    as_json: bool,
    stop: &mut Stop,
) -> anyhow::Result<ExitCode> {
    if !spec.cases.is_empty() {
        let execution = follow(client, Cases::of(spec, as_json), stop).await?;
        return Ok(cases::verdict(&execution, as_json));
    }
    let request = CreateExecutionRequest { request_id: String::new(), spec: Some(spec) };
    let created = client.create_execution(request).await.map_err(|status| print::error(&status))?.into_inner();
    let execution_id = created.execution.unwrap_or_default().execution_id;
    let watch = WatchExecutionRequest { execution_id, cursor: String::new() };
    let execution = follow(client, Script { watch, as_json }, stop).await?;
    Ok(verdict(&execution, as_json))
}

/// One script, followed to its end.
struct Script {
    watch: WatchExecutionRequest,
    as_json: bool,
}

impl Followed for Script {
    const NAME: &str = "script";
    type Message = WatchExecutionResponse;

    async fn ask<T: Channel>(
        &self,
        client: &mut ExecutionServiceClient<T>,
    ) -> Result<Streaming<WatchExecutionResponse>, Status> {
        Ok(client.watch_execution(self.watch.clone()).await?.into_inner())
    }

    fn execution_id(&self) -> &str {
        &self.watch.execution_id
    }

    fn take(&mut self, response: WatchExecutionResponse) -> anyhow::Result<Option<Execution>> {
        self.watch.cursor.clone_from(&response.cursor);
        show(&response, self.as_json)?;
        Ok(match response.item {
            Some(Item::End(end)) => Some(end.execution.unwrap_or_default()),
            _ => None,
        })
    }
}

fn show(response: &WatchExecutionResponse, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let descriptor = runmesh_proto::descriptors()
            .get_message_by_name("runmesh.execution.v1.WatchExecutionResponse")
            .context("the contract has no WatchExecutionResponse")?;
        print::line(print::json(&print::dynamic(response, descriptor)?)?)?;
        return Ok(());
    }
    let Some(Item::Event(event)) = &response.item else { return Ok(()) };
    if let Some(Payload::ExecutionOutput(output)) = &event.payload {
        match output.stream() {
            // What a compiler says is not the program's output.
            _ if output.step() == ExecutionStep::Compile => write(&mut std::io::stderr().lock(), &output.data)?,
            OutputStream::Stderr => write(&mut std::io::stderr().lock(), &output.data)?,
            _ => write(&mut std::io::stdout().lock(), &output.data)?,
        }
    }
    Ok(())
}

fn write(to: &mut impl std::io::Write, data: &[u8]) -> std::io::Result<()> {
    to.write_all(data)?;
    to.flush()
}

fn verdict(execution: &Execution, as_json: bool) -> ExitCode {
    let code = match execution.state() {
        ExecutionState::Completed => 0,
        ExecutionState::TimedOut => exit::TIMED_OUT,
        ExecutionState::Cancelled => exit::CANCELLED,
        // A failure is never 0, whatever the script, or the compiler, ended with.
        _ => match execution.exit_code.and_then(|code| u8::try_from(code).ok()) {
            Some(code) if code != 0 => code,
            _ => exit::FAILED,
        },
    };
    if !as_json {
        ending::not_held(execution);
        let _ = writeln!(std::io::stderr(), "{}", ending::in_words(execution, code));
    }
    ExitCode::from(code)
}
