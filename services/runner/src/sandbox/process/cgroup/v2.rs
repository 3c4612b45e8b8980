//! Version 2: one hierarchy.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use super::{Evidence, Folders, field, number};

/// The time over which a processor share is measured, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// Why the limit does not hold in full. `None`: it does.
pub(super) fn weakness(folder: &Path) -> Option<&'static str> {
    (!folder.join("memory.swap.max").exists() && super::has_swap()).then_some("what is swapped out is not counted")
}

pub(super) fn limit_memory(folder: &Path, bytes: u64) -> io::Result<()> {
    fs::write(folder.join("memory.max"), bytes.to_string())?;
    // Absent where the kernel has no swap.
    match fs::write(folder.join("memory.swap.max"), "0") {
        Err(error) if error.kind() == ErrorKind::NotFound || error.kind() == ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

pub(super) fn limit_cpu(folder: &Path, millis: u32) -> io::Result<()> {
    // The kernel takes no less than 1 ms.
    let quota = (u64::from(millis) * PERIOD / 1000).max(1000);
    fs::write(folder.join("cpu.max"), format!("{quota} {PERIOD}"))
}

pub(super) fn evidence(folders: &Folders) -> Evidence {
    let memory = folders.memory.as_deref();
    let events = memory.and_then(|folder| fs::read_to_string(folder.join("memory.events")).ok());
    let cpu = cpu(folders);
    Evidence {
        oom_kills: events.and_then(|text| field(&text, "oom_kill")),
        // Since Linux 5.19.
        peak_memory_bytes: memory.and_then(|folder| number(&folder.join("memory.peak"))),
        cpu_user: cpu.map(|(user, _)| user),
        cpu_system: cpu.map(|(_, system)| system),
        refused_processes: None,
    }
}

pub(super) fn cpu(folders: &Folders) -> Option<(Duration, Duration)> {
    let text = fs::read_to_string(folders.cpu_count.as_deref()?.join("cpu.stat")).ok()?;
    let micros = |name: &str| field(&text, name).map(Duration::from_micros);
    Some((micros("user_usec")?, micros("system_usec")?))
}
