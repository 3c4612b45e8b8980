//! Finds and kills processes of scripts that are not in the group where they belong, by what their environment says:
//! those that left their group, and those of a node that was killed.
//!
//! A script can hide from this by starting a process with another environment; only a sandbox with process namespaces
//! or cgroups leaves it no way out.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::MARKER;
use super::start::FOLDER_MARKER;

/// How long leftovers may go on starting new processes until they are given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills every process of a script with a folder in `root`, of one run if its folder is given. Blocks until none is
/// left. Returns how many there were.
///
/// Of a run whose main process has the id `main`, only processes that were started after it are looked at: those with
/// greater ids. One behind a turn of the ids is found at the next start of the node.
pub(super) fn kill(root: &Path, run: Option<&Path>, main: u32) -> usize {
    let since = Instant::now();
    let mut killed = std::collections::HashSet::new();
    loop {
        let found = find(root, run, main);
        if found.is_empty() || since.elapsed() > PATIENCE {
            if !found.is_empty() {
                tracing::warn!(processes = found.len(), "processes of scripts are left behind");
            }
            return killed.len();
        }
        for pid in found {
            end(root, run, pid);
            killed.insert(pid);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn end(root: &Path, run: Option<&Path>, pid: Pid) {
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The handle is sure to be of a marked process only if it still is one now.
    if !is_marked(root, run, pid) {
        return;
    }
    rustix::process::pidfd_send_signal(&handle, Signal::KILL).ok();
}

fn find(root: &Path, run: Option<&Path>, main: u32) -> Vec<Pid> {
    let later = processes().filter(|pid| *pid > main).filter_map(|pid| Pid::from_raw(pid.cast_signed()));
    later.filter(|pid| is_marked(root, run, *pid)).collect()
}

/// Every process of a script with a folder in `root`, with that folder.
pub(super) fn marked(root: &Path) -> Vec<(u32, PathBuf)> {
    processes().filter_map(|pid| Some((pid, folder_of(root, pid.cast_signed())?))).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether a process that is alive has the marks of a run.
fn is_marked(root: &Path, run: Option<&Path>, pid: Pid) -> bool {
    folder_of(root, pid.as_raw_nonzero().get()).is_some_and(|folder| run.is_none_or(|run| run == folder))
}

/// The folder in `root` that the marks of a process name. Those of a zombie can't be read.
fn folder_of(root: &Path, pid: i32) -> Option<PathBuf> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    };
    let folder = Path::new(std::ffi::OsStr::from_bytes(value(FOLDER_MARKER)?));
    (value(MARKER).is_some() && folder.parent() == Some(root)).then(|| folder.to_owned())
}
