//! SIGTERM: intake ends, scripts are ended, streams are told, and the process ends with exit code 0 within a bound.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mark, Mesh, Options, bash};
use runmesh_proto::{
    event::{Event, event::Payload},
    execution::{ExecutionSpec, WatchExecutionResponse, watch_execution_response::Item},
};

/// Within this a node has ended, whatever it was doing.
const BOUND: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_work_ends_at_once() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_with(Options::set(["shutdown.drain=120s"])).await?;
    // To leave the groups of real servers may take some seconds.
    let bound = if mesh.backends().is_some() { BOUND } else { Duration::from_secs(5) };
    mesh.ask_to_end()?;
    let status = mesh.ended(bound).await?;
    ensure!(status.success(), "{status}\n{}", mesh.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_flight_and_an_open_watch_do_not_hold_a_shutdown() -> anyhow::Result<()> {
    let mark = Mark::new("shutdown");
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let execution_id = client.launch(ExecutionSpec { environment: mark.environment(), ..bash(script) }).await?;
    let mut watch = client.watch(&execution_id, "").await?;
    let output = |payload: &Option<Payload>| matches!(payload, Some(Payload::ExecutionOutput(_)));
    let mut seen =
        watch.until(|message| matches!(&message.item, Some(Item::Event(event)) if output(&event.payload))).await?;

    mesh.ask_to_end()?;
    // The stream ends too, by an end or by an error, but never as if the log were complete.
    loop {
        match watch.next().await {
            Ok(Some(message)) => seen.messages.push(message),
            Ok(None) => {
                seen.end().context("the stream ended without an error and without the end")?;
                break;
            }
            Err(_) => break,
        }
    }
    let status = mesh.ended(BOUND).await?;
    ensure!(status.success(), "{status}\n{}", mesh.log());
    mark.gone().await?;

    // The same data again: the execution has one end, and the watch goes on where it was.
    mesh.restart().await?;
    let client = mesh.client().await?;
    let cursor = seen.cursors().last().copied().unwrap_or_default().to_owned();
    if seen.end().is_err() {
        seen.messages.extend(client.watch(&execution_id, &cursor).await?.rest().await?.messages);
    }
    assert_eq!(seen, client.follow(&execution_id).await?);
    mesh.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_leaves_no_cgroup() -> anyhow::Result<()> {
    let mut mesh = Mesh::start().await?;
    let client = mesh.client().await?;
    let execution_id = client.launch(bash("sleep 1000")).await?;
    let process = |message: &WatchExecutionResponse| match &message.item {
        Some(Item::Event(Event { payload: Some(Payload::ExecutionStarted(started)), .. })) => {
            started.container_id.clone()
        }
        _ => None,
    };
    let seen = client.watch(&execution_id, "").await?.until(|message| process(message).is_some()).await?;
    let pid = seen.messages.last().and_then(process).context("no process")?;
    // Each line is a number, the controllers, and where the process is: `3:memory:/runmesh-0123456789abcdef/run-1`.
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).context("the cgroups of the script")?;
    let parents: BTreeSet<&str> =
        cgroups.lines().filter_map(|line| line.split('/').find(|part| part.starts_with("runmesh-"))).collect();
    let left = || -> anyhow::Result<Vec<PathBuf>> {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup")?.collect::<Result<Vec<_>, _>>()?;
        let places = hierarchies.iter().flat_map(|hierarchy| parents.iter().map(|name| hierarchy.path().join(name)));
        Ok(places.filter(|place| place.exists()).collect())
    };
    if parents.is_empty() {
        return mesh.stop().await;
    }
    ensure!(!left()?.is_empty(), "{parents:?} are not where they are looked for");
    mesh.stop().await?;
    assert_eq!(left()?, Vec::<PathBuf>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_on_the_same_data_is_refused() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let output = tokio::process::Command::new(runmesh_mesh_tests::binary()?)
        .args(["dev", "--json", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
        .arg(mesh.data_folder())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(BOUND, output).await.context("it did not end")??;
    ensure!(!output.status.success(), "it ended with {}", output.status);
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(words.contains("in use") || words.contains("another"), "it says: {words}");
    Ok(())
}
