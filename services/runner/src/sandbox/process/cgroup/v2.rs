//! Version 2: one hierarchy.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Evidence, Folders, PERIOD, field, number, quota, write_if_there};

/// Why the limit does not hold in full. `None`: it does.
pub(super) fn weakness(folder: &Path) -> Option<&'static str> {
    (!folder.join("memory.swap.max").exists() && super::has_swap()).then_some("what is swapped out is not counted")
}

pub(super) fn limit_memory(folder: &Path, bytes: u64) -> io::Result<()> {
    fs::write(folder.join("memory.max"), bytes.to_string())?;
    // Absent where the kernel has no swap.
    write_if_there(&folder.join("memory.swap.max"), "0")
}

pub(super) fn limit_cpu(folder: &Path, millis: u32) -> io::Result<()> {
    fs::write(folder.join("cpu.max"), format!("{} {PERIOD}", quota(millis)))
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
