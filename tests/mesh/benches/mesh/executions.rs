//! Executions through the real binary by gRPC, against starting the same program bare.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_mesh_tests::{Client, Mesh, bash, is_terminal};
use runmesh_proto::execution::{ListRuntimesRequest, WaitExecutionRequest, watch_execution_response::Item};
use tempfile::TempDir;

use crate::{Times, per_second};

const RUNS: usize = 300;
const ROUNDS: usize = 4;
const WARM_UP: usize = 20;
/// As many as the node runs at once by default on 2 cores, so that both sides have the same parallelism.
const AT_ONCE: usize = 4;

/// What is run: bash with a script that does nothing.
const SCRIPT: &str = ":\n";

/// The same program without Runmesh.
struct Bare {
    command: Vec<String>,
    folder: TempDir,
}

impl Bare {
    /// The command that the mesh runs bash scripts by.
    async fn of(client: &Client) -> anyhow::Result<Self> {
        let runtimes = client.executions.clone().list_runtimes(ListRuntimesRequest {}).await?.into_inner().runtimes;
        let bash = runtimes.into_iter().find(|runtime| runtime.language == "bash").context("there is no bash")?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(&bash.file_name), SCRIPT)?;
        let command = bash.command.iter().map(|part| part.replace("{file}", &bash.file_name)).collect();
        Ok(Self { command, folder })
    }

    async fn run(&self) -> anyhow::Result<()> {
        let (program, arguments) = self.command.split_first().context("no command")?;
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        ensure!(command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await?.status.success(), "{program}");
        Ok(())
    }
}

/// Creates an execution and watches it until its terminal event.
pub(crate) async fn run_and_watch(client: &Client) -> anyhow::Result<()> {
    let execution_id = client.launch(bash(SCRIPT)).await?;
    let terminal = |item: &Option<Item>| matches!(item, Some(Item::Event(event)) if event.payload.as_ref().is_some_and(is_terminal));
    client.watch(&execution_id, "").await?.until(|message| terminal(&message.item)).await?;
    Ok(())
}

/// Creates an execution and waits for its end.
async fn run_and_wait(client: &Client) -> anyhow::Result<()> {
    let request = WaitExecutionRequest { execution_id: client.launch(bash(SCRIPT)).await?, timeout: None };
    let execution = client.executions.clone().wait_execution(request).await?.into_inner().execution;
    ensure!(execution.is_some_and(|execution| execution.exit_code == Some(0)), "it did not complete");
    Ok(())
}

/// One at a time, the two sides in turn.
pub(crate) async fn latency() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let bare = Bare::of(&client).await?;
    for _ in 0..WARM_UP {
        bare.run().await?;
        run_and_watch(&client).await?;
    }
    let (mut alone, mut meshed) = (Times::new()?, Times::new()?);
    for _ in 0..RUNS {
        let since = Instant::now();
        bare.run().await?;
        alone.add(since.elapsed());
        let since = Instant::now();
        run_and_watch(&client).await?;
        meshed.add(since.elapsed());
    }
    alone.print("bare process, start to end");
    meshed.print("execution, create to terminal event seen");
    println!("  on top of the bare process                   p50 {:>8.2} ms", meshed.at(0.5) - alone.at(0.5));
    Ok(())
}

/// Many at once.
pub(crate) async fn throughput() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let bare = Bare::of(&client).await?;
    let many = |count: usize, at_once: usize| {
        let client = &client;
        stream::iter(0..count).map(move |_| run_and_wait(client)).buffer_unordered(at_once).try_collect::<()>()
    };
    many(WARM_UP, AT_ONCE).await?;
    let (mut meshed, mut alone) = (Duration::ZERO, Duration::ZERO);
    // In turn, so that whatever else the machine does hits both sides.
    for _ in 0..ROUNDS {
        // Enough wait that a slot is never free for want of work.
        let since = Instant::now();
        many(RUNS, 4 * AT_ONCE).await?;
        meshed += since.elapsed();
        let since = Instant::now();
        stream::iter(0..RUNS).map(|_| bare.run()).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        alone += since.elapsed();
    }
    let (meshed, alone) = (per_second(ROUNDS * RUNS, meshed), per_second(ROUNDS * RUNS, alone));
    println!("  bare processes, {AT_ONCE} at once                   {alone:>8.0} /s");
    println!("  executions, all durable                      {meshed:>8.0} /s");
    println!("  ratio                                        {:>8.2}", meshed / alone);
    Ok(())
}
