//! What sandboxes that wait take of memory.

use std::{path::Path, time::Duration};

use tokio::time::sleep;

use super::open;

/// What pools of several sizes take.
pub(super) async fn memory(folder: &Path) -> anyhow::Result<()> {
    let mut before = None;
    for pool in [0, 1, 8, 32] {
        let sandbox = open(folder, pool, Vec::new())?;
        while sandbox.ready() < pool {
            sleep(Duration::from_millis(5)).await;
        }
        let bytes = memory_of_children();
        let more = before.map_or_else(String::new, |(count, bytes_before): (usize, u64)| {
            let each = bytes.saturating_sub(bytes_before) / u64::try_from(pool - count).unwrap_or(1);
            format!(", {} KiB for each more", each >> 10)
        });
        println!("  {pool} sandboxes that wait, with their helper: {} KiB{more}", bytes >> 10);
        before = Some((pool, bytes));
    }
    Ok(())
}

/// The memory of this process's helpers and of what they started: what each has alone, and its part of what they share.
fn memory_of_children() -> u64 {
    fn add(pid: u32, sum: &mut u64) {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                let text = std::fs::read_to_string(format!("/proc/{child}/smaps_rollup")).unwrap_or_default();
                let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
                if !name.starts_with("sandbox-") {
                    continue;
                }
                let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
                let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
                *sum += kib.unwrap_or(0) << 10;
                add(child, sum);
            }
        }
    }
    let mut sum = 0;
    add(std::process::id(), &mut sum);
    sum
}
