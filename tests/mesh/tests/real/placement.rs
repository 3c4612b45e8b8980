//! Which of several runners takes an execution.

use anyhow::{Context as _, ensure};
use runmesh_events::Payload;
use runmesh_mesh_tests::{Client, Transcript, bash, eventually};
use runmesh_proto::queue::{
    DrainRunnerRequest, GetQueueStatsRequest, QueueStats, queue_service_client::QueueServiceClient,
};
use rustix::process::Signal;
use tonic::transport::Channel;

use crate::bed::Bed;

/// What a scheduler tells of the queue: the one that works, or another by the store.
async fn stats(bed: &Bed) -> anyhow::Result<QueueStats> {
    let answer = queue(bed).await?.get_queue_stats(GetQueueStatsRequest {}).await?.into_inner();
    answer.stats.context("no stats")
}

async fn queue(bed: &Bed) -> anyhow::Result<QueueServiceClient<Channel>> {
    Ok(Client::connect(&bed.mesh.member("scheduler-1")?.grpc).await?.queue)
}

/// How many slots of each runner are in use, by name.
async fn in_use(bed: &Bed) -> anyhow::Result<Vec<(String, i32)>> {
    Ok(stats(bed).await?.runners.into_iter().map(|runner| (runner.runner, runner.slots_in_use)).collect())
}

/// The runners at which it was started, in their order.
fn nodes(log: &Transcript) -> Vec<String> {
    let started = log.events().filter_map(|event| match &event.payload {
        Some(Payload::ExecutionStarted(started)) => started.node_name.clone(),
        _ => None,
    });
    started.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_have_no_more_than_their_slots_and_one_that_drains_is_given_nothing() -> anyhow::Result<()> {
    let bed = Bed::new().await?;
    let mut launched = Vec::new();
    for _ in 0..10 {
        launched.push(bed.client.launch(bash("sleep 600")).await?);
    }
    let full = [("runner-1".to_owned(), 4), ("runner-2".to_owned(), 4)];
    eventually("both runners to be full", async || Ok((in_use(&bed).await? == full).then_some(()))).await?;
    let mut began = Vec::new();
    for id in &launched {
        bed.client.cancel(id, "enough").await?;
        began.extend(nodes(&bed.client.follow(id).await?));
    }
    for name in ["runner-1", "runner-2"] {
        let count = began.iter().filter(|node| *node == name).count();
        ensure!(count >= 3, "{name} had {count} of {began:?}");
    }

    queue(&bed).await?.drain_runner(DrainRunnerRequest { runner: "runner-1".to_owned() }).await?;
    // The scheduler that works looks once a second, and tells what it gives out by that.
    eventually("the drain to be known", async || {
        let log = bed.client.run(bash("true")).await?;
        Ok((nodes(&log) == ["runner-2"] && stats(&bed).await?.slots == 4).then_some(()))
    })
    .await?;
    for _ in 0..6 {
        let log = bed.client.run(bash("echo ran")).await?;
        ensure!(log.stdout()? == b"ran\n", "another output");
        ensure!(nodes(&log) == ["runner-2"], "it ran at {:?}", nodes(&log));
    }
    bed.mesh.verify().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_runner_had_not_begun_goes_to_another_and_runs_once() -> anyhow::Result<()> {
    let bed = Bed::new().await?;
    eventually("both runners", async || Ok((in_use(&bed).await?.len() == 2).then_some(()))).await?;
    // It is believed to be alive still.
    bed.mesh.signal("runner-1", Signal::STOP)?;
    let mut launched = Vec::new();
    for _ in 0..4 {
        launched.push(bed.client.launch(bash("echo ran")).await?);
    }
    let mut given_up = 0;
    for id in &launched {
        // `on_runner_loss` is to fail, which is about scripts that have begun.
        let log = bed.client.follow(id).await?;
        ensure!(log.stdout()? == b"ran\n", "another output");
        ensure!(nodes(&log) == ["runner-2"], "it ran at {:?}", nodes(&log));
        let lost = |payload: &Payload| matches!(payload, Payload::PodTerminated(ended) if ended.lost_attempt > 0);
        given_up += log.events().filter_map(|event| event.payload.as_ref()).filter(|payload| lost(payload)).count();
    }
    ensure!(given_up > 0, "the stopped runner was given nothing");
    // It goes on with commands that are not its own any more.
    bed.mesh.signal("runner-1", Signal::CONT)?;
    eventually("both runners again", async || Ok((in_use(&bed).await?.len() == 2).then_some(()))).await?;
    bed.mesh.verify().await?;
    for id in &launched {
        ensure!(nodes(&bed.client.follow(id).await?) == ["runner-2"], "it was begun again");
    }
    Ok(())
}
