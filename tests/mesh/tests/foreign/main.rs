//! Clients that share nothing with Runmesh but its contract: Python, grpcurl, a browser.
//!
//! They are installed by `cargo xtask setup`. A test that misses its client fails.

mod browser;
mod events;
mod grpcurl;
mod python;
mod tls;

use std::process::Output;

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::Mesh;
use tokio::process::Command;

/// Longer than any of these clients takes.
const BOUND: std::time::Duration = std::time::Duration::from_secs(180);

/// Runs a client to its end.
async fn run(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(BOUND, output).await.context("the client did not end")?.context("starting the client")
}

/// Runs a client that has to succeed, and returns what it wrote to standard output.
async fn succeed(command: &mut Command, mesh: &Mesh) -> anyhow::Result<String> {
    let output = run(command).await?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}\n{stdout}\n{stderr}\nthe mesh:\n{}", output.status, mesh.log());
    Ok(stdout.into_owned())
}
