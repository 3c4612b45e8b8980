//! A disk that is full, and has room again.

use std::{fs::File, io::Write as _, time::Instant};

use anyhow::{Context as _, ensure};
use runmesh_mesh_tests::{Load, Mesh, Options, PATIENCE, bash};
use tonic::Code;

/// Enough for the store's files and some executions.
const DISK: u64 = 24 << 20;

/// Writes until there is no room: by large pieces, then by pages, so that nothing is left.
fn fill(file: &mut File) {
    let block = vec![b'x'; 64 << 10];
    for size in [block.len(), 4_096] {
        while file.write_all(&block[..size]).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_stuck_when_the_disk_was_full() -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Options { disk: Some(DISK), ..Options::default() }).await?;
    let client = mesh.client().await?;
    let mut load = Load::start(&client);
    load.more(10).await?;
    let filler = mesh.data_folder_inside()?.join("filler");
    let mut file = File::create(&filler).context("a file on the mesh's disk")?;
    // Others may give room back in between: logs that are folded into the database.
    let since = Instant::now();
    let refused = loop {
        fill(&mut file);
        match client.create(bash("echo no")).await {
            Ok(_) => ensure!(since.elapsed() < PATIENCE, "executions are accepted without room"),
            Err(status) => break status,
        }
    };
    ensure!(refused.code() == Code::Unavailable, "the refusal is {refused:?}");
    ensure!(refused.message().contains("full"), "the refusal does not say why: {refused:?}");
    drop(file);
    std::fs::remove_file(&filler)?;
    load.more(10).await?;
    let count = load.finish().await?;
    ensure!(count >= 20, "only {count} executions");
    Ok(())
}
