//! A test that is killed leaves nothing behind.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Context as _;
use runmesh_servers::{Kafka, KafkaOptions, MongoLike};

use crate::processes::{eventually, nothing_is_left, of};

/// Set in the process that is killed, which runs the same test.
const VICTIM: &str = "RUNMESH_SERVERS_VICTIM";
const PREFIX: &str = "folder: ";

#[test]
fn servers_of_a_killed_test_end_also_a_paused_one_and_their_folders_go() -> anyhow::Result<()> {
    if env::var_os(VICTIM).is_some() {
        return be_killed();
    }
    let mut victim = Command::new(env::current_exe()?)
        .args(["--exact", "crash::servers_of_a_killed_test_end_also_a_paused_one_and_their_folders_go", "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(victim.stdout.take().context("its output")?).lines();
    let folders: Vec<PathBuf> =
        lines.map_while(Result::ok).filter_map(|line| line.strip_prefix(PREFIX).map(PathBuf::from)).take(2).collect();
    let running: Vec<usize> = folders.iter().map(|folder| of(folder).len()).collect();
    victim.kill()?;
    victim.wait()?;
    // Only now, since a test that fails must not leave the victim waiting.
    assert!(folders.len() == 2 && running.iter().all(|&count| count > 0), "{folders:?}: {running:?}");
    eventually("the end of the servers", || folders.iter().all(|folder| nothing_is_left(folder).is_ok()))
}

fn be_killed() -> anyhow::Result<()> {
    let kafka = Kafka::start(&KafkaOptions::default())?;
    let mongodb = MongoLike::start()?;
    mongodb.pause()?;
    println!("{PREFIX}{}", kafka.node_folder(1).parent().context("a cluster's folder")?.display());
    println!("{PREFIX}{}", mongodb.folder().display());
    // Until the kill, or the end of the test that kills.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
