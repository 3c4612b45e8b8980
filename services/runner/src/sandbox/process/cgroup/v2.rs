//! Version 2: one hierarchy.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Counters, Evidence, PERIOD, field, quota, write_if_there};

/// Why the limit does not hold in full. `None`: it does.
pub(super) fn weakness(folder: &Path) -> Option<&'static str> {
    (!folder.join("memory.swap.max").exists() && super::has_swap()).then_some("what is swapped out is not counted")
}

/// No limit.
const NONE: &str = "max";

pub(super) fn limit_memory(folder: &Path, bytes: Option<u64>) -> io::Result<()> {
    fs::write(folder.join("memory.max"), bytes.map_or(NONE.to_owned(), |bytes| bytes.to_string()))?;
    // Absent where the kernel has no swap.
    write_if_there(&folder.join("memory.swap.max"), bytes.map_or(NONE, |_| "0"))
}

pub(super) fn limit_cpu(folder: &Path, millis: Option<u32>) -> io::Result<()> {
    let quota = millis.map_or(NONE.to_owned(), |millis| quota(millis).to_string());
    fs::write(folder.join("cpu.max"), format!("{quota} {PERIOD}"))
}

/// The files of [`super::Counters`]; both kinds of processor time are in one, and all memory is counted together. The peak is
/// there since Linux 5.19.
pub(super) const COUNTERS: [&str; 5] = ["memory.events", "memory.peak", "", "cpu.stat", ""];

pub(super) fn evidence(counters: &Counters) -> Evidence {
    let cpu = cpu(counters);
    Evidence {
        oom_kills: counters.memory_events.text().and_then(|text| field(&text, "oom_kill")),
        peak_memory_bytes: counters.peak_memory.number(),
        cpu_user: cpu.map(|(user, _)| user),
        cpu_system: cpu.map(|(_, system)| system),
        refused_processes: None,
    }
}

pub(super) fn cpu(counters: &Counters) -> Option<(Duration, Duration)> {
    let text = counters.cpu.text()?;
    let micros = |name: &str| field(&text, name).map(Duration::from_micros);
    Some((micros("user_usec")?, micros("system_usec")?))
}
