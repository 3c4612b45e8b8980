//! Finds what exists of runs and belongs to none.
//!
//! What is in use is marked before it is made and until it is removed ([`Known`](super::known::Known)), so what exists at one
//! moment and has no mark a moment later belongs to no run: it is left over, or was just removed.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Shared, folder, leftovers};
use crate::sandbox::{SandboxError, Stray};

/// All there is. What has no mark is looked at once more: what was just removed is not there any more.
pub(super) fn find(shared: &Shared) -> Result<Vec<Stray>, SandboxError> {
    let mut strays = Vec::new();
    for path in folder::all(&shared.folders)? {
        if !is_running(shared, &path) {
            strays.push(Stray::Folder(path));
        }
    }
    if let Ok(cgroups) = &shared.cgroups {
        strays.extend(cgroups.strays().into_iter().map(Stray::Cgroup));
    }
    let marked = leftovers::marked(&shared.folders).into_iter().filter(|(_, folder)| !is_running(shared, folder));
    let pids = marked.map(|(pid, _)| pid).chain(shared.launcher.strays());
    strays.extend(pids.filter_map(|pid| Some(Stray::Process { pid, started: started(pid)? })));
    strays.retain(|stray| match stray {
        Stray::Process { .. } => true,
        Stray::Folder(path) | Stray::Cgroup(path) => path.exists(),
    });
    strays.sort_unstable();
    strays.dedup();
    Ok(strays)
}

/// Ends and removes one. Returns whether it was there.
pub(super) fn remove(stray: &Stray) -> Result<bool, SandboxError> {
    match stray {
        Stray::Process { pid, started: then } => Ok(kill(*pid, *then)),
        Stray::Folder(path) => match path.symlink_metadata() {
            Err(_) => Ok(false),
            Ok(_) => folder::remove(path).map(|()| true),
        },
        Stray::Cgroup(path) => super::cgroup::remove_stray(path).map_err(SandboxError::io("remove the cgroup", path)),
    }
}

fn is_running(shared: &Shared, folder: &Path) -> bool {
    folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| shared.running.has(name))
}

fn kill(pid: u32, then: u64) -> bool {
    let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(handle) = rustix::process::pidfd_open(handle, PidfdFlags::empty()) else { return false };
    // Only now is it sure that the id is not another's.
    started(pid) == Some(then) && rustix::process::pidfd_send_signal(&handle, Signal::KILL).is_ok()
}

/// When a process started, in ticks since the machine did: with its id its name for ever. `None`: it has ended.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    // The state, number 3 of proc(5), then number 22.
    (!matches!(fields.next()?, "Z" | "X")).then(|| fields.nth(18)?.parse().ok()).flatten()
}
