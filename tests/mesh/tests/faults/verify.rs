//! `runmesh verify`: it finds nothing where nothing is wrong, and each loss that a test makes.

use std::{collections::BTreeSet, path::Path, process::Output};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Client, Mesh, Options, PATIENCE, bash, binary};
use runmesh_proto::event::EventType;
use runmesh_servers::{Kafka, KafkaOptions};
use rusqlite::Connection;
use serde_json::Value;
use tokio::task::block_in_place;

/// A mesh whose store is a file, of which a test can remove something.
async fn embedded() -> anyhow::Result<Mesh> {
    Mesh::start_with(Options { embedded: true, ..Options::default() }).await
}

/// Calls `runmesh verify`, and waits for its end.
async fn verify(folder: &Path, arguments: &[&str]) -> anyhow::Result<(Output, String)> {
    let output = tokio::process::Command::new(binary()?)
        .arg("verify")
        .args(arguments)
        .current_dir(folder)
        .env("HOME", folder)
        .env("XDG_DATA_HOME", folder.join("xdg"))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.context("verify did not end")?.context("runmesh")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output, said))
}

/// Calls it, and checks the exit code.
async fn verdict(folder: &Path, arguments: &[&str], code: i32) -> anyhow::Result<String> {
    let (output, said) = verify(folder, arguments).await?;
    ensure!(output.status.code() == Some(code), "{}, not {code}:\n{said}", output.status);
    Ok(said)
}

async fn executions(client: &Client) -> anyhow::Result<()> {
    client.run(bash("echo one; echo two >&2")).await?;
    client.run(bash("exit 3")).await?;
    client.run(bash("for i in $(seq 50); do echo $i; done")).await?;
    Ok(())
}

/// Removes the one event that the condition finds from the store's file.
fn remove(mesh: &Mesh, condition: &str) -> anyhow::Result<()> {
    let file = Connection::open(mesh.data_folder().join("runmesh.db"))?;
    let position = format!("SELECT position FROM events WHERE {condition} ORDER BY position LIMIT 1");
    let removed = file.execute(&format!("DELETE FROM events WHERE position = ({position})"), [])?;
    ensure!(removed == 1, "no event with {condition}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_verified_while_it_runs_and_its_store_after_it_has_stopped() -> anyhow::Result<()> {
    let mut mesh = embedded().await?;
    executions(&mesh.client().await?).await?;
    let folder = tempfile::tempdir()?;
    let (server, data) = (mesh.grpc()?.to_owned(), mesh.data_folder().display().to_string());
    let said = verdict(folder.path(), &["--server", &server, "--wait", "60s"], 0).await?;
    ensure!(said.contains("\nsound: ") && said.contains("3 executions, 3 ended\n"), "{said}");
    ensure!(said.contains("saga-orchestrator"), "{said}");

    // Every line is JSON, and the last has the ledger, with every group that works here.
    let lines = verdict(folder.path(), &["--server", &server, "--json"], 0).await?;
    let lines = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let end = &lines.last().context("no line")?["end"];
    assert_eq!((&end["sound"], &end["settled"]), (&Value::Bool(true), &Value::Bool(true)));
    let groups = end["groups"].as_array().context("no groups")?;
    let told: BTreeSet<&str> = groups.iter().filter_map(|group| group["group"].as_str()).collect();
    let metrics = reqwest::get(format!("{}/metrics", mesh.http()?)).await?.text().await?;
    let works: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("consumer_records_total{"))
        .filter_map(|line| line.split_once("group=\"")?.1.split_once('"').map(|(group, _)| group))
        .collect();
    ensure!(works.len() >= 5 && works == told, "{works:?} work, {told:?} are verified");

    // The file belongs to the node.
    let said = verdict(folder.path(), &["--data", &data], 2).await?;
    ensure!(said.contains("in use") && said.contains("--server"), "{said}");
    mesh.stop().await?;
    verdict(folder.path(), &["--data", &data], 0).await?;
    remove(&mesh, "sequence = 5")?;
    let said = verdict(folder.path(), &["--data", &data], 1).await?;
    ensure!(said.contains("LOSS hole ") && said.contains("NOT SOUND: 1 losses, 0 violations"), "{said}");
    // Nothing was recorded since.
    verdict(folder.path(), &["--data", &data, "--since", "0s"], 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_what_its_store_loses_while_it_runs() -> anyhow::Result<()> {
    let mesh = embedded().await?;
    executions(&mesh.client().await?).await?;
    let (folder, server) = (tempfile::tempdir()?, mesh.grpc()?.to_owned());
    verdict(folder.path(), &["--server", &server, "--wait", "60s"], 0).await?;
    let ends = EventType::ExecutionCompleted as i32;
    remove(&mesh, &format!("type = {ends}"))?;
    let said = verdict(folder.path(), &["--server", &server], 1).await?;
    ensure!(said.contains("LOSS hole ") && said.contains("2 ended, 1 without an end"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_or_a_node_there_is_no_verdict() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let said = verdict(folder.path(), &["--data", "nowhere"], 2).await?;
    ensure!(said.contains("nowhere/runmesh.db"), "{said}");
    ensure!(!folder.path().join("nowhere").exists(), "it was made");
    verdict(folder.path(), &["--server", "127.0.0.1:1"], 2).await?;
    verdict(folder.path(), &["--since", "yesterday"], 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_kafka_a_lost_event_is_missed_by_its_record() -> anyhow::Result<()> {
    let kafka = block_in_place(|| Kafka::start(&KafkaOptions::default()))?;
    let bus = format!("bus.uri=kafka://{}", kafka.bootstrap());
    let mut mesh = Mesh::start_with(Options::set([bus.as_str()])).await?;
    executions(&mesh.client().await?).await?;
    let (folder, server) = (tempfile::tempdir()?, mesh.grpc()?.to_owned());
    let said = verdict(folder.path(), &["--server", &server, "--wait", "60s"], 0).await?;
    ensure!(said.contains("3 executions, 3 ended\n"), "{said}");
    mesh.stop().await?;
    let data = mesh.data_folder().display().to_string();
    let own = ["--data", data.as_str(), "--set", bus.as_str()];
    verdict(folder.path(), &own, 0).await?;
    // The last of its log leaves no hole.
    remove(&mesh, "(aggregate, sequence) IN (SELECT aggregate, max(sequence) FROM events GROUP BY aggregate)")?;
    let said = verdict(folder.path(), &own, 1).await?;
    ensure!(said.contains("LOSS foreign ") && !said.contains(" hole "), "{said}");
    Ok(())
}
