//! Chromium, driven by playwright-core: an EventSource through a proxy that cuts, and the page to try it. See `browser/`.

use std::path::Path;

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Mesh, repository, tool};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::succeed;

/// Runs one of the scripts in `browser/`, and returns the JSON that it prints.
async fn browse(script: &str, arguments: Value, mesh: &Mesh) -> anyhow::Result<Value> {
    let modules = tool("node/node_modules/playwright-core")?;
    let mut command = Command::new("node");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("browser").join(script))
        .arg(arguments.to_string())
        .env("NODE_PATH", modules.parent().context("node_modules")?);
    let stdout = succeed(&mut command, mesh).await?;
    serde_json::from_str(&stdout).with_context(|| format!("not JSON: {stdout}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_that_is_cut_resumes_by_itself_and_stops_at_the_end() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let seen = browse("event_source.cjs", json!({"gateway": mesh.http()?, "cuts": 2}), &mesh).await?;

    let execution_id = seen["executionId"].as_str().context("no execution")?;
    let log = mesh.client().await?.follow(execution_id).await?;
    let wanted: Vec<&str> = log.cursors();
    let got: Vec<&str> =
        seen["messages"].as_array().context("no messages")?.iter().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!(got, wanted, "what the browser saw, and the log");
    let kinds: Vec<&str> =
        seen["messages"].as_array().context("no messages")?.iter().filter_map(|one| one["type"].as_str()).collect();
    let (last, before) = kinds.split_last().context("no messages")?;
    ensure!(*last == "end" && before.iter().all(|kind| *kind == "event"), "{kinds:?}");

    // The browser itself asked again: after each cut with the id of the last message that it had, and after the end.
    let requests = seen["requests"].as_array().context("no requests")?;
    ensure!(seen["cuts"] == 2, "{} cuts", seen["cuts"]);
    ensure!(requests.len() == 4, "requests: {requests:?}");
    ensure!(requests[0]["lastEventId"].is_null(), "requests: {requests:?}");
    for request in &requests[1..] {
        let id = request["lastEventId"].as_str().context("a reconnect without Last-Event-ID")?;
        ensure!(wanted.contains(&id), "Last-Event-ID {id}");
    }
    assert_eq!(requests[3]["lastEventId"].as_str(), wanted.last().copied());
    let statuses: Vec<i64> = requests.iter().filter_map(|request| request["status"].as_i64()).collect();
    assert_eq!(statuses, [200, 200, 200, 204]);
    assert_eq!(seen["readyState"], 2, "the EventSource is not closed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_a_script_and_shows_its_output() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let screenshots = repository().join("target/screenshots");
    std::fs::create_dir_all(&screenshots)?;
    let seen = browse("page.cjs", json!({"gateway": mesh.http()?, "screenshots": screenshots}), &mesh).await?;
    assert_eq!(seen["output"], "Hello, world!\nHello, 🌍!\nHello, mesh!\n");
    ensure!(seen["verdict"].as_str().is_some_and(|verdict| verdict.starts_with("completed")), "{seen}");
    assert_eq!(seen["problems"], json!([]), "errors in the browser's console");
    for shown in ["floodLines", "behindFlood"] {
        let lines = seen[shown].as_u64().context("no flood")?;
        ensure!((2_000..10_000).contains(&lines), "{shown}: {lines} lines of a flood are shown");
    }
    Ok(())
}
