//! Version 1: a hierarchy per controller.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use super::{Counter, Counters, Evidence, PERIOD, field, number, quota, write_if_there};

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

/// Memory and swap together. Absent where swap is not accounted for.
const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
/// The greatest use of memory so far.
const PEAK: &str = "memory.max_usage_in_bytes";
/// No limit.
const NONE: &str = "-1";

pub(super) fn limit_memory(folder: &Path, bytes: Option<u64>, is_limited: bool) -> io::Result<()> {
    if is_limited {
        // Memory may have no higher limit than memory and swap together.
        write_if_there(&folder.join(WITH_SWAP), NONE)?;
    }
    let text = |bytes: Option<u64>| bytes.map_or(NONE.to_owned(), |bytes| bytes.to_string());
    fs::write(folder.join("memory.limit_in_bytes"), text(bytes))?;
    // The buffers of sockets are counted by themselves.
    match fs::write(folder.join(SOCKETS), text(bytes.map(|bytes| (bytes / SOCKET_PART).max(LEAST_SOCKETS)))) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    // So that nothing goes to swap instead.
    match bytes {
        Some(bytes) => write_if_there(&folder.join(WITH_SWAP), &bytes.to_string()),
        None => Ok(()),
    }
}

/// From now on the peak is that of what is in use now, or more.
pub(super) fn reset_peak(folder: &Path) -> io::Result<()> {
    fs::write(folder.join(PEAK), "0")
}

pub(super) fn limit_cpu(folder: &Path, millis: Option<u32>) -> io::Result<()> {
    // Each of these writes holds all processors up, and a new cgroup has this period.
    let period = folder.join("cpu.cfs_period_us");
    if number(&period) != Some(PERIOD) {
        fs::write(period, PERIOD.to_string())?;
    }
    fs::write(folder.join("cpu.cfs_quota_us"), millis.map_or(NONE.to_owned(), |millis| quota(millis).to_string()))
}

/// The files of [`super::Counters`].
pub(super) const COUNTERS: [&str; 5] =
    ["memory.oom_control", PEAK, "memory.kmem.tcp.max_usage_in_bytes", "cpuacct.usage_user", "cpuacct.usage_sys"];

pub(super) fn evidence(counters: &Counters) -> Evidence {
    let cpu = cpu(counters);
    let sockets = counters.peak_sockets.number().unwrap_or(0);
    Evidence {
        oom_kills: counters.memory_events.text().and_then(|text| field(&text, "oom_kill")),
        peak_memory_bytes: counters.peak_memory.number().map(|bytes| bytes + sockets),
        cpu_user: cpu.map(|(user, _)| user),
        cpu_system: cpu.map(|(_, system)| system),
        refused_processes: None,
    }
}

pub(super) fn cpu(counters: &Counters) -> Option<(Duration, Duration)> {
    let nanos = |counter: &Counter| counter.number().map(Duration::from_nanos);
    Some((nanos(&counters.cpu)?, nanos(&counters.cpu_system)?))
}
