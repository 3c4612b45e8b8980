//! Limits and receipts as the contract has them.

use std::time::Duration;

use runmesh_events::from_duration;
use runmesh_proto::event::{self, EnforcementLevel, LimitKind};
use runmesh_proto::execution;

use crate::{Enforcement, Level, Limit, Limits};

/// A receipt as a message.
pub fn receipt_to_proto(receipt: &[Enforcement]) -> Vec<event::Enforcement> {
    receipt
        .iter()
        .map(|line| event::Enforcement {
            limit: kind(line.limit) as i32,
            level: level(line.level) as i32,
            asked: line.asked.clone(),
            enforced: line.enforced.clone(),
            mechanism: line.mechanism.clone(),
            reason: line.reason.clone(),
        })
        .collect()
}

/// The limits that a message asks for.
pub fn limits_of_proto(limits: &execution::Limits) -> Limits {
    Limits {
        wall_time: limits.wall_time.as_ref().and_then(from_duration).unwrap_or(Duration::from_secs(60)),
        output_bytes: u64::try_from(limits.output_bytes).unwrap_or_default(),
        cpu_time: limits.cpu_time.as_ref().and_then(from_duration),
        memory_bytes: positive(limits.memory_bytes),
        cpu_millis: positive(limits.cpu_millis),
        processes: positive(limits.processes),
        disk_bytes: positive(limits.disk_bytes),
        file_bytes: positive(limits.file_bytes),
    }
}

/// A limit; 0 stands for none.
pub(crate) fn positive<From, To>(limit: From) -> Option<To>
where
    From: Default + PartialOrd,
    To: TryFrom<From>,
{
    if limit > From::default() { To::try_from(limit).ok() } else { None }
}

fn kind(limit: Limit) -> LimitKind {
    match limit {
        Limit::WallTime => LimitKind::WallTime,
        Limit::CpuTime => LimitKind::CpuTime,
        Limit::Cpu => LimitKind::Cpu,
        Limit::Memory => LimitKind::Memory,
        Limit::Processes => LimitKind::Processes,
        Limit::Output => LimitKind::Output,
        Limit::FileSize => LimitKind::FileSize,
        Limit::Disk => LimitKind::Disk,
        Limit::Network => LimitKind::Network,
        Limit::Filesystem => LimitKind::Filesystem,
        Limit::Syscalls => LimitKind::Syscalls,
    }
}

fn level(level: Level) -> EnforcementLevel {
    match level {
        Level::Full => EnforcementLevel::Full,
        Level::Partial => EnforcementLevel::Partial,
        Level::None => EnforcementLevel::None,
    }
}
