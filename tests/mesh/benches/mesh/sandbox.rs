//! One program: bare, in bubblewrap, in the sandbox alone, and as a whole execution by gRPC, every event durable.

mod subject;
mod waiting;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_mesh_tests::{Client, Mesh, Options, binary};
use runmesh_runner::{Ending, HelperCommand, ProcessConfig, ProcessSandbox, SANDBOX_HELPER_ARGUMENT, Sandbox as _};

use self::subject::Subject;
use crate::{Times, per_second};

const RUNS: usize = 500;
const WARM_UP: usize = 20;
const AT_ONCE: [usize; 3] = [1, 2, 8];
/// The pause before each, in which what the one before left behind is cleaned up, and pools are filled.
const PAUSE: Duration = Duration::from_millis(20);

/// The sandbox by itself, in this process.
fn open(folder: &Path, pool: usize, prepare: Vec<PathBuf>) -> anyhow::Result<Arc<ProcessSandbox>> {
    // The one that the binary takes.
    let program = binary()?.with_file_name("sandbox-helper");
    let helper = HelperCommand { program, arguments: vec![SANDBOX_HELPER_ARGUMENT.into()] };
    let config = ProcessConfig { pool, helper, prepare, ..ProcessConfig::new(folder) };
    Ok(Arc::new(ProcessSandbox::open(config)?))
}

/// All of it.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let registry = folder.path().join("runtimes.toml");
    std::fs::write(&registry, subject::REGISTRY)?;
    let settings = [format!("runner.runtimes={}", registry.display()), "scheduler.slots=8".to_owned()];
    let mesh = Mesh::start_with(Options { settings: settings.into(), ..Options::default() }).await?;
    let client = mesh.client().await?;
    let subjects = Subject::all(&client).await?;

    let interpreters = || subjects.iter().filter(|one| one.is_prepared()).map(Subject::program).collect::<Vec<_>>();
    let plain = open(&folder.path().join("plain"), 2, Vec::new())?;
    let prepared = open(&folder.path().join("prepared"), 2, interpreters())?;
    println!("  scripts run {}", plain.isolation());
    for subject in &subjects {
        latency(subject, &plain, &prepared, &client).await?;
    }
    drop((plain, prepared));
    let sandbox = open(&folder.path().join("throughput"), 8, interpreters())?;
    for subject in &subjects {
        for at_once in AT_ONCE {
            throughput(subject, &sandbox, &client, at_once).await?;
        }
    }
    drop(sandbox);
    waiting::memory(&folder.path().join("idle")).await
}

async fn latency(
    subject: &Subject,
    plain: &ProcessSandbox,
    prepared: &ProcessSandbox,
    client: &Client,
) -> anyhow::Result<()> {
    let bubblewrap = std::process::Command::new("bwrap").arg("--version").output().is_ok();
    let mut times = [Times::new()?, Times::new()?, Times::new()?, Times::new()?, Times::new()?];
    // In turn, so that whatever else the machine does hits all of them.
    for round in 0..WARM_UP + RUNS {
        let mut took = [Duration::ZERO; 5];
        took[0] = timed(output(subject.bare())).await?;
        if bubblewrap {
            took[1] = timed(output(subject.in_bubblewrap())).await?;
        }
        took[2] = timed(in_sandbox(subject, plain)).await?;
        if subject.is_prepared() {
            took[3] = timed(in_sandbox(subject, prepared)).await?;
        }
        took[4] = timed(whole(subject, client)).await?;
        if round >= WARM_UP {
            times.iter_mut().zip(took).for_each(|(times, took)| times.add(took));
        }
    }
    let bare = times[0].at(0.5);
    let names = ["bare process", "bubblewrap", "sandbox alone", "sandbox alone, prepared", "execution, all durable"];
    let measured = [true, bubblewrap, true, subject.is_prepared(), true];
    for ((name, times), _) in names.iter().zip(&times).zip(measured).filter(|(_, measured)| *measured) {
        times.print(&format!("{}: {name}, {:.2} x", subject.name, times.at(0.5) / bare));
    }
    Ok(())
}

async fn throughput(
    subject: &Subject,
    sandbox: &ProcessSandbox,
    client: &Client,
    at_once: usize,
) -> anyhow::Result<()> {
    let since = Instant::now();
    many(at_once, || output(subject.bare())).await?;
    let bare = per_second(RUNS, since.elapsed());
    let since = Instant::now();
    many(at_once, || in_sandbox(subject, sandbox)).await?;
    let alone = per_second(RUNS, since.elapsed());
    let since = Instant::now();
    many(at_once, || whole(subject, client)).await?;
    let meshed = per_second(RUNS, since.elapsed());
    println!(
        "  {}, {at_once} at once: bare {bare:.0}/s, sandbox alone {alone:.0}/s ({:.2} x), executions {meshed:.0}/s ({:.2} x)",
        subject.name,
        alone / bare,
        meshed / bare
    );
    Ok(())
}

async fn many<F: Future<Output = anyhow::Result<()>>>(at_once: usize, work: impl Fn() -> F) -> anyhow::Result<()> {
    stream::iter(0..RUNS).map(|_| work()).buffer_unordered(at_once).try_collect().await
}

async fn timed(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<Duration> {
    tokio::time::sleep(PAUSE).await;
    let since = Instant::now();
    work.await?;
    Ok(since.elapsed())
}

async fn output(mut command: tokio::process::Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn in_sandbox(subject: &Subject, sandbox: &ProcessSandbox) -> anyhow::Result<()> {
    let mut run = sandbox.start(subject.spec()).await?;
    while run.next_chunk().await.is_some() {}
    let ending = run.outcome().await.ending;
    ensure!(ending == Ending::Exited(0), "{ending:?}");
    Ok(())
}

/// From the request to create it to the answer that it has ended.
async fn whole(subject: &Subject, client: &Client) -> anyhow::Result<()> {
    let execution_id = client.launch(subject.execution()).await?;
    let request = runmesh_proto::execution::WaitExecutionRequest { execution_id, timeout: None };
    let execution = client.executions.clone().wait_execution(request).await?.into_inner().execution;
    let execution = execution.context("no execution")?;
    ensure!(execution.exit_code == Some(0), "{:?}", execution.error_message);
    Ok(())
}
