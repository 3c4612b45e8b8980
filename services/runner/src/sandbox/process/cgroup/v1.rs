//! Version 1: a hierarchy per controller.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use super::{Evidence, Folders, PERIOD, field, number, quota, write_if_there};

/// The limit of the buffers of sockets.
const SOCKETS: &str = "memory.kmem.tcp.limit_in_bytes";
/// Which part of the memory limit they may have beside it, and how much at least.
const SOCKET_PART: u64 = 4;
const LEAST_SOCKETS: u64 = 1 << 20;

/// Why the limit does not hold in full. `None`: it does.
pub(super) fn weakness(folder: &Path) -> Option<&'static str> {
    if !folder.join(SOCKETS).exists() {
        Some("buffers of sockets are not counted")
    } else if !folder.join("memory.memsw.limit_in_bytes").exists() && super::has_swap() {
        Some("what is swapped out is not counted")
    } else {
        None
    }
}

pub(super) fn limit_memory(folder: &Path, bytes: u64) -> io::Result<()> {
    fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string())?;
    // The buffers of sockets are counted by themselves.
    match fs::write(folder.join(SOCKETS), (bytes / SOCKET_PART).max(LEAST_SOCKETS).to_string()) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    // Memory and swap together, so that nothing goes to swap instead. Absent where swap is not accounted for.
    write_if_there(&folder.join("memory.memsw.limit_in_bytes"), &bytes.to_string())
}

/// From now on the peak is that of what is in use now, or more.
pub(super) fn reset_peak(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("memory.max_usage_in_bytes"), "0")
}

pub(super) fn limit_cpu(folder: &Path, millis: u32) -> io::Result<()> {
    // Each of these writes holds all processors up, and a new cgroup has this period.
    let period = folder.join("cpu.cfs_period_us");
    if number(&period) != Some(PERIOD) {
        fs::write(period, PERIOD.to_string())?;
    }
    fs::write(folder.join("cpu.cfs_quota_us"), quota(millis).to_string())
}

pub(super) fn evidence(folders: &Folders) -> Evidence {
    let memory = folders.memory.as_deref();
    let oom = memory.and_then(|folder| fs::read_to_string(folder.join("memory.oom_control")).ok());
    let cpu = cpu(folders);
    Evidence {
        oom_kills: oom.and_then(|text| field(&text, "oom_kill")),
        peak_memory_bytes: memory.and_then(|folder| {
            let sockets = number(&folder.join("memory.kmem.tcp.max_usage_in_bytes")).unwrap_or(0);
            Some(number(&folder.join("memory.max_usage_in_bytes"))? + sockets)
        }),
        cpu_user: cpu.map(|(user, _)| user),
        cpu_system: cpu.map(|(_, system)| system),
        refused_processes: None,
    }
}

pub(super) fn cpu(folders: &Folders) -> Option<(Duration, Duration)> {
    let folder = folders.cpu_count.as_deref()?;
    let nanos = |name: &str| number(&folder.join(name)).map(Duration::from_nanos);
    Some((nanos("cpuacct.usage_user")?, nanos("cpuacct.usage_sys")?))
}
