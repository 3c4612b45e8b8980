//! Lost and stalled processes of the mesh.

use std::time::Duration;

use anyhow::ensure;
use runmesh_mesh_tests::{Load, bash, eventually, python};
use rustix::process::Signal;

use crate::bed::Bed;

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_of_processes_runs_scripts_and_shows_them_through_its_gateway() -> anyhow::Result<()> {
    let bed = Bed::new().await?;
    let transcript = bed.client.run(python("print('over several processes')")).await?;
    ensure!(transcript.stdout()? == b"over several processes\n", "another output");
    let id = transcript.complete()?.execution_id.clone();
    let shown: serde_json::Value =
        reqwest::get(format!("{}/v1/executions/{id}", bed.mesh.http())).await?.error_for_status()?.json().await?;
    ensure!(shown["execution"]["state"] == "EXECUTION_STATE_COMPLETED", "the gateway shows {shown}");
    let result: serde_json::Value = reqwest::get(format!("{}/v1/executions/{id}/result", bed.mesh.http()))
        .await?
        .error_for_status()?
        .json()
        .await?;
    ensure!(result.to_string().contains("over several processes") || result["result"].is_object(), "{result}");
    bed.mesh.verify().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_runner_that_has_the_script() -> anyhow::Result<()> {
    let bed = Bed::new().await?;
    // As many as are needed for both runners to have some.
    let mut launched = Vec::new();
    for _ in 0..4 {
        launched.push(bed.client.launch(bash("echo begin; sleep 600")).await?);
    }
    for id in &launched {
        let mut watch = bed.client.watch(id, "").await?;
        watch.until(|message| format!("{message:?}").contains("ExecutionOutput")).await?;
    }
    for id in &launched {
        bed.client.cancel(id, "enough").await?;
    }
    for id in &launched {
        let end = bed.client.follow(id).await?.complete()?.clone();
        ensure!(end.state() == runmesh_proto::execution::ExecutionState::Cancelled, "{id} ended as {end:?}");
    }
    bed.mesh.verify().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_process_may_be_killed_in_turn() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    let mut load = Load::bounded(&bed.client);
    load.more(10).await?;
    let names: Vec<String> = bed.mesh.members().iter().map(|member| member.name.clone()).collect();
    for name in names {
        bed.mesh.kill(&name).await?;
        load.more(6).await?;
    }
    bed.check(load).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stalls_past_its_session_does_no_harm_when_it_goes_on() -> anyhow::Result<()> {
    // Shorter than a lease of the store, so that what it holds there is still its own when it goes on, in the first
    // round; and not in the second.
    let bed = Bed::with(Default::default(), &["bus.session_timeout=4s"]).await?;
    let mut load = bed.load().await?;
    for (stall, name) in [(6, "saga-1"), (6, "scheduler-1"), (16, "runner-1"), (16, "saga-2"), (16, "execution-1")] {
        bed.mesh.signal(name, Signal::STOP)?;
        // Time itself is what is tested here.
        tokio::time::sleep(Duration::from_secs(stall)).await;
        bed.mesh.signal(name, Signal::CONT)?;
        load.more(6).await?;
    }
    bed.check(load).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_name_are_told_apart() -> anyhow::Result<()> {
    let bed = Bed::new().await?;
    let output =
        bed.mesh.command(&["serve", "--roles", "saga", "--grpc", "127.0.0.1:0", "--set", "node=saga-1"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("node: \"saga-1\""), "{}: {said}", output.status);
    // The first one goes on.
    eventually("an execution after that", async || Ok(bed.client.run(bash("echo on")).await.ok())).await?;
    Ok(())
}
