//! Settings.

use std::time::Duration;

use runmesh_events::to_duration;
use runmesh_proto::execution::Limits;
use serde::{Deserialize, Serialize};

/// The least that a run can be given: a process with nothing in it takes as much memory; a page is the least of a file;
/// below ten thousandths of a core the kernel's scheduler has no quota.
pub(crate) const LEAST_MEMORY: i64 = 4 << 20;
pub(crate) const LEAST_FILE: i64 = PAGE;
pub(crate) const LEAST_CPU: i64 = 10;

/// What a file takes is a multiple of this, in bytes.
pub(crate) const PAGE: i64 = 4_096;

/// Settings of the execution service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutionConfig {
    /// What applies where a request gives nothing.
    pub default_limits: LimitsConfig,
    /// The most that a request may ask for.
    pub maximum_limits: LimitsConfig,
    /// What applies to the compile step where a request gives nothing. `maximum_limits` applies to it too.
    pub default_compile_limits: LimitsConfig,
    /// The greatest size of script, files, standard input and cases together, in bytes.
    pub maximum_source_bytes: u64,
    /// The greatest number of files.
    pub maximum_files: usize,
    /// The greatest number of cases.
    pub maximum_cases: usize,
    /// The most wall-clock time that all cases of an execution may take together, and what applies where a request gives
    /// none.
    #[serde(with = "humantime_serde")]
    pub maximum_cases_wall_time: Duration,
}

/// Limits of a run. Where only some of them are set, the node's settings have the defaults for the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Wall-clock time, such as "30s".
    #[serde(with = "humantime_serde")]
    pub wall_time: Duration,
    /// Bytes of output.
    pub output_bytes: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Thousandths of a processor core.
    pub cpu_millis: i32,
    /// Processor time of all processes together, such as "30s". Zero: no limit as a default; as a maximum, as the default.
    #[serde(with = "humantime_serde")]
    pub cpu_time: Duration,
    /// Processes and threads at once. 0: the sandbox's own limit as a default; as a maximum, as the default.
    pub processes: i32,
    /// Bytes of all files that a script makes. 0: as for `processes`.
    pub disk_bytes: i64,
    /// Bytes of any one file that a script writes. 0: as `disk_bytes`.
    pub file_bytes: i64,
}

impl Default for ExecutionConfig {
    fn default() -> Self {
        Self {
            default_limits: LimitsConfig {
                wall_time: Duration::from_secs(60),
                output_bytes: 16 << 20,
                memory_bytes: 512 << 20,
                cpu_millis: 1_000,
                cpu_time: Duration::ZERO,
                processes: 256,
                disk_bytes: 256 << 20,
                file_bytes: 0,
            },
            maximum_limits: LimitsConfig {
                wall_time: Duration::from_secs(600),
                output_bytes: 64 << 20,
                memory_bytes: 4 << 30,
                cpu_millis: 4_000,
                cpu_time: Duration::from_secs(2400),
                processes: 1_024,
                disk_bytes: 1 << 30,
                file_bytes: 1 << 30,
            },
            default_compile_limits: LimitsConfig {
                wall_time: Duration::from_secs(60),
                output_bytes: 1 << 20,
                memory_bytes: 1 << 30,
                cpu_millis: 2_000,
                cpu_time: Duration::ZERO,
                processes: 256,
                disk_bytes: 512 << 20,
                file_bytes: 0,
            },
            maximum_source_bytes: 4 << 20,
            maximum_files: 100,
            maximum_cases: 1_000,
            maximum_cases_wall_time: Duration::from_secs(3_600),
        }
    }
}

impl LimitsConfig {
    /// A limit below the least that a run can be given, with that. `None`: there is none.
    pub fn too_small(&self) -> Option<(&'static str, i64)> {
        // 0 stands for none, where there need not be one.
        let least = |limit: i64, least: i64| if limit == 0 { 0 } else { least };
        let limits = [
            ("output_bytes", self.output_bytes, 1),
            ("memory_bytes", self.memory_bytes, LEAST_MEMORY),
            ("cpu_millis", self.cpu_millis.into(), LEAST_CPU),
            ("processes", self.processes.into(), 0),
            ("disk_bytes", self.disk_bytes, least(self.disk_bytes, LEAST_FILE)),
            ("file_bytes", self.file_bytes, least(self.file_bytes, LEAST_FILE)),
        ];
        limits.into_iter().find_map(|(name, limit, least)| (limit < least).then_some((name, least)))
    }

    /// The limits as the API shows them.
    pub fn to_proto(&self) -> Limits {
        Limits {
            wall_time: Some(to_duration(self.wall_time)),
            output_bytes: self.output_bytes,
            memory_bytes: self.memory_bytes,
            cpu_millis: self.cpu_millis,
            cpu_time: (!self.cpu_time.is_zero()).then(|| to_duration(self.cpu_time)),
            processes: self.processes,
            disk_bytes: self.disk_bytes,
            file_bytes: self.file_bytes,
        }
    }
}
