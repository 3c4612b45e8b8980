//! The folders of private servers: `target/servers/private`.

use std::{fs, path::Path, process};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::process::ticks;

/// A folder for a private server. It is removed with the value, or by the server's guard when this process dies. Where
/// neither came to it, because the process died before the server ran or while the folder was being removed, the next one
/// does.
pub(crate) fn private_folder(kind: &str) -> anyhow::Result<TempDir> {
    let private = crate::folder().join("private");
    fs::create_dir_all(&private).with_context(|| format!("can't make {}", private.display()))?;
    sweep(&private);
    make(&private, kind)
}

/// Its name says whose it is: `kafka-PID-TICKS-RANDOM`.
fn make(private: &Path, kind: &str) -> anyhow::Result<TempDir> {
    let id = process::id();
    let owner = ticks(id).context("when this process was started")?;
    let prefix = format!("{kind}-{id}-{owner}-");
    tempfile::Builder::new().prefix(&prefix).tempdir_in(private).context("a folder for a private server")
}

/// Removes the folders of processes that are no more.
fn sweep(private: &Path) {
    let Ok(folders) = fs::read_dir(private) else { return };
    for folder in folders.filter_map(Result::ok) {
        if folder.file_name().to_str().is_some_and(is_left_over) {
            // Two may sweep at once, or a guard may be at it.
            fs::remove_dir_all(folder.path()).ok();
        }
    }
}

fn is_left_over(name: &str) -> bool {
    let mut parts = name.split('-').skip(1);
    let (Some(id), Some(owner)) = (parts.next(), parts.next()) else { return false };
    match (id.parse(), owner.parse()) {
        (Ok(id), Ok(owner)) => ticks(id) != Some::<u64>(owner),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn folders_of_dead_processes_go_and_those_of_living_ones_and_others_stay() -> anyhow::Result<()> {
        let private = tempfile::tempdir()?;
        let private = private.path();
        let mine = make(private, "kafka")?;
        let mut child = Command::new("/bin/sh").args(["-c", "read _"]).stdin(Stdio::piped()).spawn()?;
        let started = ticks(child.id()).context("the child's start")?;
        let theirs = private.join(format!("mongodb-{}-{started}-x", child.id()));
        // Another process had this id before.
        let before = private.join(format!("mongodb-{}-{}-x", child.id(), started - 1));
        let other = private.join("something");
        for folder in [&theirs, &before, &other] {
            fs::create_dir_all(folder.join("data"))?;
        }
        sweep(private);
        assert!(mine.path().exists() && theirs.exists() && other.exists() && !before.exists());
        drop(child.stdin.take());
        child.wait()?;
        sweep(private);
        assert!(mine.path().exists() && !theirs.exists() && other.exists());
        Ok(())
    }
}
