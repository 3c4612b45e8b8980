//! How an execution ends: the right verdict, and nothing left behind.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use runmesh_mesh_tests::{Client, Mark, Mesh, Transcript, bash, python};
use runmesh_proto::{
    event::{ExecutionErrorType, event::Payload},
    execution::{
        ExecutionSpec, ExecutionState, Limits, RetryExecutionRequest, WaitExecutionRequest,
        watch_execution_response::Item,
    },
};

fn limited(mut spec: ExecutionSpec, limits: Limits) -> ExecutionSpec {
    spec.limits = Some(limits);
    spec
}

/// Starts the script and waits until it has written something.
async fn running(client: &Client, spec: ExecutionSpec) -> anyhow::Result<String> {
    let execution_id = client.launch(spec).await?;
    let wrote = |payload: &Option<Payload>| matches!(payload, Some(Payload::ExecutionOutput(_)));
    let mut watch = client.watch(&execution_id, "").await?;
    watch.until(|message| matches!(&message.item, Some(Item::Event(event)) if wrote(&event.payload))).await?;
    Ok(execution_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_code_is_passed_on() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let transcript = mesh.client().await?.run(bash("echo before; exit 3")).await?;
    let end = transcript.complete()?;
    assert_eq!((end.state(), end.exit_code), (ExecutionState::Failed, Some(3)));
    assert_eq!(end.error_type(), ExecutionErrorType::ScriptError);
    assert_eq!(transcript.stdout()?, b"before\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_told_from_an_exit_code() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let transcript = client.run(bash("kill -KILL $$")).await?;
    let end = transcript.complete()?;
    assert_eq!((end.state(), end.exit_code), (ExecutionState::Failed, Some(137)));
    assert_eq!(end.error_type(), ExecutionErrorType::Signaled);

    let transcript = client.run(bash("exit 137")).await?;
    assert_eq!(transcript.complete()?.error_type(), ExecutionErrorType::ScriptError);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wall_clock_limit_ends_a_script_and_all_that_it_started() -> anyhow::Result<()> {
    let mark = Mark::new("timeout");
    let mesh = Mesh::start().await?;
    let wall_time = Some(prost_types::Duration { seconds: 4, nanos: 0 });
    let spec = limited(bash("echo begun; sleep 600 & sleep 600"), Limits { wall_time, ..Default::default() });
    let transcript = mesh.client().await?.run(ExecutionSpec { environment: mark.environment(), ..spec }).await?;
    let end = transcript.complete()?;
    assert_eq!(end.state(), ExecutionState::TimedOut);
    assert_eq!(transcript.stdout()?, b"begun\n");
    let Payload::ExecutionTimeout(timeout) = transcript.terminal()? else { bail!("{:?}", transcript.types()) };
    assert_eq!(timeout.timeout, wall_time);
    let used = timeout.resource_usage.and_then(|usage| usage.wall_time).context("no wall time")?;
    let used = Duration::try_from(used)?;
    ensure!(used >= Duration::from_secs(4), "ended after {used:?}");
    mark.gone().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_limit_ends_a_script() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let spec = limited(bash("yes"), Limits { output_bytes: 10_000, ..Default::default() });
    let transcript = client.run(spec).await?;
    let end = transcript.complete()?;
    assert_eq!(end.state(), ExecutionState::Failed);
    assert_eq!(end.error_type(), ExecutionErrorType::OutputLimit);
    let stdout = transcript.stdout()?;
    ensure!(stdout.len() == 10_000, "{} bytes of output", stdout.len());
    ensure!(stdout == "y\n".repeat(5_000).as_bytes(), "other bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_asks_politely_at_first() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(runmesh_mesh_tests::Options::set(["runner.cancel_grace=20s"])).await?;
    let client = mesh.client().await?;
    let script = "trap 'echo goodbye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let execution_id = running(&client, bash(script)).await?;
    client.cancel(&execution_id, "enough").await?;
    let transcript = client.follow(&execution_id).await?;
    let end = transcript.complete()?;
    assert_eq!(end.state(), ExecutionState::Cancelled);
    assert_eq!(transcript.stdout()?, b"ready\ngoodbye\n");
    let Payload::ExecutionCancelled(cancelled) = transcript.terminal()? else { bail!("{:?}", transcript.types()) };
    assert_eq!((cancelled.reason.as_str(), cancelled.force_terminated), ("enough", false));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_a_script_that_ignores_sigterm() -> anyhow::Result<()> {
    let mark = Mark::new("ignores-sigterm");
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)";
    let spec = ExecutionSpec { environment: mark.environment(), ..python(script) };
    let execution_id = running(&client, spec).await?;
    client.cancel(&execution_id, "enough").await?;
    let transcript = client.follow(&execution_id).await?;
    assert_eq!(transcript.complete()?.state(), ExecutionState::Cancelled);
    assert_eq!(transcript.stdout()?, b"ready\n");
    let Payload::ExecutionCancelled(cancelled) = transcript.terminal()? else { bail!("{:?}", transcript.types()) };
    assert!(cancelled.force_terminated);
    mark.gone().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_again_changes_nothing_and_cancelling_what_ended_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let execution_id = running(&client, bash("echo ready; sleep 600")).await?;
    client.cancel(&execution_id, "once").await?;
    client.cancel(&execution_id, "twice").await?;
    let first = client.follow(&execution_id).await?;
    let again = client.cancel(&execution_id, "thrice").await?;
    assert_eq!(again.state(), ExecutionState::Cancelled);
    assert_eq!(client.follow(&execution_id).await?, first, "a cancel of what was cancelled changed the log");

    let completed = client.run(bash("true")).await?.complete()?.execution_id.clone();
    let refused = client.cancel(&completed, "late").await.err().context("a cancel of what completed")?;
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_that_waits_for_a_slot_can_be_cancelled_without_having_run() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(one_slot()).await?;
    let client = mesh.client().await?;
    let first = running(&client, bash("echo ready; sleep 600")).await?;
    let waiting = client.launch(bash("echo never")).await?;
    client.cancel(&waiting, "not needed").await?;
    let transcript = client.follow(&waiting).await?;
    assert_eq!(transcript.complete()?.state(), ExecutionState::Cancelled);
    assert!(!transcript.types().iter().any(|name| name == "execution_started"), "{:?}", transcript.types());
    // The slot was not lost with it.
    client.cancel(&first, "make room").await?;
    assert_eq!(client.run(bash("echo now")).await?.stdout()?, b"now\n");
    Ok(())
}

fn one_slot() -> runmesh_mesh_tests::Options {
    runmesh_mesh_tests::Options::set(["scheduler.slots=1"])
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_run_in_turn_and_see_their_place() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(one_slot()).await?;
    let client = mesh.client().await?;
    let first = running(&client, bash("echo ready; sleep 600")).await?;
    let second = client.launch(bash("echo second")).await?;
    let queued = |payload: &Option<Payload>| matches!(payload, Some(Payload::ExecutionQueued(_)));
    let mut watch = client.watch(&second, "").await?;
    watch.until(|message| matches!(&message.item, Some(Item::Event(event)) if queued(&event.payload))).await?;
    let shown = client.get(&second).await?;
    assert_eq!(shown.state(), ExecutionState::Queued);
    assert_eq!(shown.queue_position, Some(1));
    client.cancel(&first, "make room").await?;
    assert_eq!(client.follow(&second).await?.stdout()?, b"second\n");
    assert_eq!(client.get(&second).await?.queue_position, None);
    Ok(())
}

/// For how long a call may wait at most.
const LONGEST: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn waiting_returns_when_it_ends_and_when_the_time_is_up() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let wait = async |execution_id: &str, timeout: Duration| {
        let timeout = Some(prost_types::Duration::try_from(timeout)?);
        let request = WaitExecutionRequest { execution_id: execution_id.to_owned(), timeout };
        let response = client.executions.clone().wait_execution(request).await?.into_inner();
        response.execution.context("a response without the execution")
    };
    let execution_id = running(&client, bash("echo ready; sleep 600")).await?;
    assert_eq!(wait(&execution_id, Duration::from_millis(20)).await?.state(), ExecutionState::Running);
    let (waited, cancelled) = tokio::join!(wait(&execution_id, LONGEST), client.cancel(&execution_id, "enough"));
    cancelled?;
    assert_eq!(waited?.state(), ExecutionState::Cancelled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_runs_the_same_again_as_a_new_execution() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let spec = ExecutionSpec {
        args: vec!["an argument".to_owned()],
        stdin: "input".into(),
        ..bash("echo \"$1\"; cat; exit 4")
    };
    let old = client.run(spec).await?;
    let old_id = old.complete()?.execution_id.clone();
    let request = RetryExecutionRequest { execution_id: old_id.clone(), ..Default::default() };
    let new =
        client.executions.clone().retry_execution(request).await?.into_inner().execution.context("no execution")?;
    assert_ne!(new.execution_id, old_id);
    assert_eq!(new.retry_of, old_id);
    let transcript: Transcript = client.follow(&new.execution_id).await?;
    assert_eq!(transcript.complete()?.exit_code, Some(4));
    assert_eq!(transcript.stdout()?, b"an argument\ninput");
    Ok(())
}
