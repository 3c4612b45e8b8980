//! Slots and ids: given back whatever happens, used again.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use runmesh_mesh_tests::{Client, Mesh, Options, bash, eventually};
use runmesh_proto::execution::{CreateExecutionRequest, DeleteExecutionRequest, Execution, ExecutionState};
use tonic::Code;

/// Cancels it at some moment: queued, being granted its slot, started or already over.
async fn launch_and_cancel(client: &Client, number: usize) -> anyhow::Result<String> {
    let execution_id = client.launch(bash("sleep 0.02")).await?;
    if number.is_multiple_of(3) {
        return Ok(execution_id);
    }
    // The moment differs from one to the next by what else goes on.
    for _ in 0..number % 7 {
        client.get(&execution_id).await?;
    }
    match client.cancel(&execution_id, "a storm").await {
        Ok(_) => {}
        Err(status) if status.code() == Code::FailedPrecondition => {}
        Err(status) => return Err(status.into()),
    }
    Ok(execution_id)
}

async fn gauge(mesh: &Mesh, name: &str) -> anyhow::Result<f64> {
    let metrics = reqwest::get(format!("{}/metrics", mesh.http()?)).await?.text().await?;
    let line = metrics.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
    Ok(line.rsplit(' ').next().context("no value")?.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancels_leaves_every_slot_free() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options::set(["scheduler.slots=2"])).await?;
    let client = mesh.client().await?;
    let ids = try_join_all((0..120).map(|number| launch_and_cancel(&client, number))).await?;
    for execution_id in &ids {
        client.follow(execution_id).await?;
    }
    eventually("no slot in use and nobody waiting", async || {
        let free = gauge(&mesh, "scheduler_slots_in_use").await? == 0.0;
        Ok((free && gauge(&mesh, "scheduler_queue_depth").await? == 0.0).then_some(()))
    })
    .await?;
    // Both slots can be had again.
    try_join_all((0..4).map(|_| client.run(bash("true")))).await?;
    Ok(())
}

/// What was repaired so far, by its kind.
async fn repairs(mesh: &Mesh) -> anyhow::Result<BTreeMap<String, u64>> {
    let metrics = reqwest::get(format!("{}/metrics", mesh.http()?)).await?.text().await?;
    let counts =
        metrics.lines().filter_map(|line| line.strip_prefix("reconciler_repairs_total{what=\"")?.split_once("\"} "));
    counts.map(|(what, count)| Ok((what.to_owned(), count.parse()?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_over_is_removed_and_nothing_else_is_repaired() -> anyhow::Result<()> {
    // What two looks see is repaired, so the time between them has to be longer than a slow machine may stand still.
    let mesh = Mesh::start_with(Options::set(["scheduler.slots=2", "reconciler.interval=10s"])).await?;
    let client = mesh.client().await?;
    let ids = try_join_all((0..60).map(|number| launch_and_cancel(&client, number))).await?;
    let left = mesh.data_folder_inside()?.join("work/left-over-1");
    std::fs::create_dir_all(left.join("work/deep"))?;
    for execution_id in &ids {
        client.follow(execution_id).await?;
    }
    let found = eventually("the folder removed", async || {
        let found = repairs(&mesh).await?;
        Ok((found.get("folder") == Some(&1)).then_some(found))
    })
    .await?;
    ensure!(!left.exists(), "it was counted, and is still there");
    let kinds = ["cgroup", "folder", "lease", "run", "sandbox", "slot"];
    ensure!(found.keys().map(String::as_str).eq(kinds), "told are {found:?}");
    ensure!(found.values().sum::<u64>() == 1, "in ordinary operation there is nothing to repair: {found:?}");
    Ok(())
}

async fn create(client: &Client, request_id: &str) -> anyhow::Result<Execution> {
    let request = CreateExecutionRequest { request_id: request_id.to_owned(), spec: Some(bash("echo again")) };
    client.executions.clone().create_execution(request).await?.into_inner().execution.context("no execution")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_free_again_after_a_deletion() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    for _ in 0..3 {
        let execution_id = create(&client, "the same").await?.execution_id;
        let transcript = client.follow(&execution_id).await?;
        ensure!(transcript.stdout()? == b"again\n", "another output");
        eventually("its end in the list", async || {
            let listed = client.list().await?;
            let ended = |one: &&Execution| one.state() == ExecutionState::Completed && one.closed;
            Ok(listed.iter().find(ended).map(drop))
        })
        .await?;
        client.executions.clone().delete_execution(DeleteExecutionRequest { execution_id }).await?;
        ensure!(client.list().await?.is_empty(), "a deleted execution is in the list");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_an_execution_that_is_deleted_ends_with_not_found() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    // More than the stream and the client take in at once, so that the watch is still on its way.
    let execution_id = client.launch(bash("head -c 8000000 /dev/zero")).await?;
    client.follow(&execution_id).await?;
    let mut watch = client.watch(&execution_id, "").await?;
    watch.next().await?.context("nothing")?;
    client.executions.clone().delete_execution(DeleteExecutionRequest { execution_id }).await?;
    let broken = loop {
        match watch.next().await {
            Ok(Some(message)) => ensure!(!format!("{message:?}").contains("End("), "the end of a log that is gone"),
            Ok(None) => anyhow::bail!("it ended as if all were well"),
            Err(error) => break error,
        }
    };
    let status = broken.downcast_ref::<tonic::Status>().context("no status")?;
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    Ok(())
}
