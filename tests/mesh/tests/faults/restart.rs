//! A node that is killed while executions run, and started again on the same data.

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mark, Mesh, Options, Stored, bash, eventually, is_terminal};
use runmesh_proto::{
    event::{ExecutionErrorType, RunnerLoss, event::Payload},
    execution::{ExecutionSpec, ExecutionState, Limits},
    queue::GetQueueStatsRequest,
};

/// Fewer than there are executions, so that some wait when the node dies.
const SLOTS: usize = 3;
const EXECUTIONS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn executions_survive_a_killed_node() -> anyhow::Result<()> {
    let mark = Mark::new("killed");
    let slots = format!("scheduler.slots={SLOTS}");
    let mut mesh = Mesh::start_with(Options::set([slots.as_str()])).await?;
    let client = mesh.client().await?;
    let mut launched = Vec::new();
    for index in 0..EXECUTIONS {
        let script = format!("echo begin {index}; sleep 8; echo end {index}");
        let spec = ExecutionSpec { environment: mark.environment(), ..bash(&script) };
        launched.push(client.launch(spec).await?);
    }
    let states = async || {
        let executions = client.list().await?;
        anyhow::Ok(executions.into_iter().map(|execution| (execution.execution_id.clone(), execution.state())))
    };
    let running = eventually("executions that run", async || {
        let running: Vec<String> =
            states().await?.filter(|(_, state)| *state == ExecutionState::Running).map(|(id, _)| id).collect();
        Ok((running.len() == SLOTS && !mark.processes().is_empty()).then_some(running))
    })
    .await?;
    let queued: Vec<String> =
        states().await?.filter(|(_, state)| *state == ExecutionState::Queued).map(|(id, _)| id).collect();
    ensure!(!queued.is_empty(), "none was queued, so nothing was tested");

    mesh.kill()?;
    mesh.restart().await?;

    let client = mesh.client().await?;
    for execution_id in &launched {
        let transcript = client.follow(execution_id).await.with_context(|| mesh.log())?;
        let end = transcript.complete()?;
        let result = client.result(execution_id).await.with_context(|| format!("the result of {end:?}"))?;
        ensure!(result.state == end.state, "the result has {:?}, the log {:?}", result.state(), end.state());
        if queued.contains(execution_id) {
            ensure!(end.state() == ExecutionState::Completed, "it waited, and ended as {end:?}");
        } else if end.state() != ExecutionState::Completed {
            ensure!(running.contains(execution_id), "it did not run, and ended as {end:?}");
            ensure!(end.error_type() == ExecutionErrorType::RunnerLost, "it ran, and ended as {end:?}");
        }
    }
    // Nothing is left of the scripts that lost their node, and no slot is lost.
    mark.gone().await?;
    for _ in 0..=SLOTS {
        client.run(bash("echo afterwards")).await?;
    }

    mesh.stop().await?;
    let store = Stored::open(&mesh).await?;
    for execution_id in &launched {
        let log = store.log(execution_id).await?;
        let count =
            |fits: fn(&Payload) -> bool| log.iter().filter(|event| event.payload.as_ref().is_some_and(fits)).count();
        ensure!(count(is_terminal) == 1, "{} terminal events in {execution_id}", count(is_terminal));
        let results = count(|payload| matches!(payload, Payload::ResultStored(_) | Payload::ResultFailed(_)));
        ensure!(results == 1, "{results} results in {execution_id}");
        let starts = count(|payload| matches!(payload, Payload::ExecutionStarted(_)));
        ensure!(starts <= 1, "{execution_id} was started {starts} times");
        let ends = count(|payload| {
            matches!(payload, Payload::SagaCompleted(_) | Payload::SagaFailed(_) | Payload::SagaCancelled(_))
        });
        ensure!(ends == 1, "{ends} ends of the saga in {execution_id}");
    }
    Ok(())
}

/// How often the node is killed, unless `MESH_TEST_KILLS` says otherwise.
const KILLS: usize = 8;
const OF_A_ROUND: usize = 5;

/// Executions that end in different ways.
fn mixed(round: usize, index: usize) -> ExecutionSpec {
    let text = format!("echo {round} {index}; sleep 0.0{index}");
    match index {
        0 => bash(&text),
        1 => bash(&format!("{text}; exit 3")),
        2 => {
            let wall_time = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
            let limits = Some(Limits { wall_time, ..Limits::default() });
            ExecutionSpec { limits, ..bash("sleep 1000") }
        }
        3 => ExecutionSpec { on_runner_loss: RunnerLoss::Retry as i32, maximum_retries: 10, ..bash(&text) },
        _ => bash("sleep 1000"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_crash_at_any_moment_loses_an_execution() -> anyhow::Result<()> {
    let kills = std::env::var("MESH_TEST_KILLS").ok().map_or(Ok(KILLS), |text| text.parse())?;
    let mark = Mark::new("crashes");
    let mut mesh = Mesh::start_with(Options::set(["scheduler.slots=2"])).await?;
    let mut launched = Vec::new();
    // Killed in the middle of whatever happens to go on: with short scripts, at every step of some execution.
    for round in 0..kills {
        let client = mesh.client().await?;
        for index in 0..OF_A_ROUND {
            let spec = ExecutionSpec { environment: mark.environment(), ..mixed(round, index) };
            launched.push((client.launch(spec).await?, index));
        }
        let watched = launched[launched.len() - OF_A_ROUND + round % 4].0.clone();
        let mut watch = client.watch(&watched, "").await?;
        for _ in 0..round % 13 {
            watch.next().await?;
        }
        // One that would not end by itself. It may be killed before this is recorded.
        let (last, _) = launched.last().context("launched")?;
        client.cancel(last, "enough").await?;
        mesh.kill()?;
        mesh.restart().await?;
    }
    let client = mesh.client().await?;
    for (execution_id, index) in &launched {
        let end = client.follow(execution_id).await.with_context(|| mesh.log())?.complete()?.clone();
        let by_itself = match index {
            0 | 3 => end.state() == ExecutionState::Completed,
            1 => end.error_type() == ExecutionErrorType::ScriptError,
            2 => end.state() == ExecutionState::TimedOut,
            _ => end.state() == ExecutionState::Cancelled,
        };
        let lost = *index != 3 && end.error_type() == ExecutionErrorType::RunnerLost;
        ensure!(by_itself || lost, "{index} ended as {end:?}");
        client.result(execution_id).await?;
    }
    assert_eq!(client.list().await?.len(), launched.len());
    mark.gone().await?;
    eventually("no working folder is left", async || {
        let entries = std::fs::read_dir(mesh.data_folder_inside()?.join("work"))?;
        Ok((!entries.flatten().any(|entry| entry.path().is_dir())).then_some(()))
    })
    .await?;
    eventually("no slot in use and nobody waiting", async || {
        let answer = client.queue.clone().get_queue_stats(GetQueueStatsRequest {}).await?.into_inner();
        let stats = answer.stats.context("no stats")?;
        Ok((stats.running + stats.waiting == 0).then_some(()))
    })
    .await?;
    mesh.stop().await?;
    let store = Stored::open(&mesh).await?;
    for (execution_id, _) in &launched {
        let log = store.log(execution_id).await?;
        let count =
            |fits: fn(&Payload) -> bool| log.iter().filter(|event| event.payload.as_ref().is_some_and(fits)).count();
        ensure!(count(is_terminal) == 1, "{} terminal events in {execution_id}", count(is_terminal));
        let asked = count(|payload| matches!(payload, Payload::AllocateResourcesCommand(_)));
        let given_back = count(|payload| matches!(payload, Payload::ReleaseResourcesCommand(_)));
        ensure!(asked == given_back, "{asked} slots asked for and {given_back} given back in {execution_id}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_a_crash_cut_resumes_where_it_was() -> anyhow::Result<()> {
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let execution_id = client.launch(bash("for i in $(seq 20); do echo $i; sleep 0.05; done")).await?;
    let mut watch = client.watch(&execution_id, "").await?;
    let mut seen = runmesh_mesh_tests::Transcript::default();
    while seen.output(runmesh_proto::event::OutputStream::Stdout)?.len() < 6 {
        seen.messages.push(watch.next().await?.context("the stream ended")?);
    }
    mesh.kill()?;
    mesh.restart().await?;
    let cursor = seen.cursors().last().copied().unwrap_or_default().to_owned();
    let client = mesh.client().await?;
    seen.messages.extend(client.watch(&execution_id, &cursor).await?.rest().await?.messages);
    assert_eq!(seen, client.follow(&execution_id).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_whose_runner_is_lost_is_run_again_as_often_as_it_asks_for() -> anyhow::Result<()> {
    let mark = Mark::new("again");
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let spec = |script: &str, maximum_retries| ExecutionSpec {
        environment: mark.environment(),
        on_runner_loss: RunnerLoss::Retry as i32,
        maximum_retries,
        ..bash(script)
    };
    let again = client.launch(spec("sleep 8; echo done", 2)).await?;
    let once = client.launch(spec("sleep 1000", 1)).await?;
    for _ in 0..2 {
        let client = mesh.client().await?;
        for execution_id in [&again, &once] {
            let ready = |state| matches!(state, ExecutionState::Running | ExecutionState::Failed);
            let state = async || anyhow::Ok(client.get(execution_id).await?.state());
            eventually("a script that runs", async || Ok(Some(state().await?).filter(|state| ready(*state)))).await?;
        }
        mesh.kill()?;
        mesh.restart().await?;
    }
    let client = mesh.client().await?;
    let transcript = client.follow(&again).await?;
    ensure!(transcript.complete()?.state() == ExecutionState::Completed, "{:?}", transcript.complete()?);
    let result = client.result(&again).await?;
    ensure!(result.stdout == "done\n", "{:?}", result.stdout);
    let end = client.follow(&once).await?.complete()?.clone();
    ensure!(end.error_type() == ExecutionErrorType::RunnerLost, "its second loss was one too many: {end:?}");
    mark.gone().await?;
    mesh.stop().await?;
    let store = Stored::open(&mesh).await?;
    for (execution_id, lost, attempts) in [(&again, vec![1, 2], 3), (&once, vec![1], 2)] {
        let log = store.log(execution_id).await?;
        let payloads = || log.iter().filter_map(|event| event.payload.as_ref());
        let told: Vec<i32> = payloads()
            .filter_map(|payload| match payload {
                Payload::PodTerminated(ended) => Some(ended.lost_attempt).filter(|attempt| *attempt > 0),
                _ => None,
            })
            .collect();
        ensure!(told == lost, "{told:?}");
        let count = |fits: fn(&Payload) -> bool| payloads().filter(|payload| fits(payload)).count();
        let counts = [
            count(|payload| matches!(payload, Payload::AllocateResourcesCommand(_))),
            count(|payload| matches!(payload, Payload::ExecutionAccepted(_))),
            count(|payload| matches!(payload, Payload::CreatePodCommand(_))),
            count(|payload| matches!(payload, Payload::ReleaseResourcesCommand(_))),
        ];
        ensure!(counts == [attempts; 4], "{counts:?}");
        ensure!(count(is_terminal) == 1, "{} terminal events", count(is_terminal));
    }
    Ok(())
}
