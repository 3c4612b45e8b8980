//! Which of several runners takes an execution.

use anyhow::{Context as _, ensure};
use runmesh_events::Payload;
use runmesh_mesh_tests::{Transcript, bash, eventually};
use rustix::process::Signal;
use serde_json::Value;

use crate::bed::Bed;

/// How many slots of each runner are in use, by name.
async fn in_use(bed: &Bed) -> anyhow::Result<Vec<(String, u64)>> {
    let url = format!("{}/v1/queue:stats", bed.mesh.http());
    let told: Value = reqwest::get(url).await?.error_for_status()?.json().await?;
    let runners = told["stats"]["runners"].as_array().with_context(|| format!("no runners in {told}"))?;
    let of = |runner: &Value| {
        let name = runner["runner"].as_str().unwrap_or_default().to_owned();
        (name, runner["slotsInUse"].as_u64().unwrap_or_default())
    };
    Ok(runners.iter().map(of).collect())
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

    let drain = format!("{}/v1/runners/runner-1:drain", bed.mesh.http());
    reqwest::Client::new().post(drain).json(&serde_json::json!({})).send().await?.error_for_status()?;
    eventually("the drain to be known", async || {
        let url = format!("{}/v1/queue:stats", bed.mesh.http());
        let told: Value = reqwest::get(url).await?.json().await?;
        Ok((told["stats"]["slots"] == "4").then_some(()))
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
