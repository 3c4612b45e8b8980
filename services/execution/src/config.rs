//! Settings.

use std::time::Duration;

use runmesh_events::to_duration;
use runmesh_proto::execution::Limits;
use serde::{Deserialize, Serialize};

/// Settings of the execution service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutionConfig {
    /// What applies where a request gives nothing.
    pub default_limits: LimitsConfig,
    /// The most that a request may ask for.
    pub maximum_limits: LimitsConfig,
    /// The greatest size of script, files and standard input together, in bytes.
    pub maximum_source_bytes: u64,
    /// The greatest number of files.
    pub maximum_files: usize,
}

/// Limits of a run.
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
}

impl Default for ExecutionConfig {
    fn default() -> Self {
        Self {
            default_limits: LimitsConfig {
                wall_time: Duration::from_secs(60),
                output_bytes: 16 << 20,
                memory_bytes: 512 << 20,
                cpu_millis: 1_000,
            },
            maximum_limits: LimitsConfig {
                wall_time: Duration::from_secs(600),
                output_bytes: 64 << 20,
                memory_bytes: 4 << 30,
                cpu_millis: 4_000,
            },
            maximum_source_bytes: 4 << 20,
            maximum_files: 100,
        }
    }
}

impl LimitsConfig {
    /// The limits as the API shows them.
    pub fn to_proto(&self) -> Limits {
        Limits {
            wall_time: Some(to_duration(self.wall_time)),
            output_bytes: self.output_bytes,
            memory_bytes: self.memory_bytes,
            cpu_millis: self.cpu_millis,
        }
    }
}
