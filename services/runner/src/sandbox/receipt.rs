//! The enforcement receipt: which limits were really enforced, by what.

/// Something that a sandbox can hold a script to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Wall-clock time.
    WallTime,
    /// Bytes of output.
    Output,
    /// Bytes of memory.
    Memory,
    /// Processor share.
    Cpu,
    /// The number of processes.
    Processes,
    /// Bytes on disk.
    Disk,
    /// No network.
    Network,
    /// Only the files that a runtime needs.
    Filesystem,
    /// Only the system calls that a runtime needs.
    Syscalls,
}

impl Limit {
    /// The name in the API; the first four are fields of the contract's `Limits`.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::WallTime => "wall_time",
            Limit::Output => "output_bytes",
            Limit::Memory => "memory_bytes",
            Limit::Cpu => "cpu_millis",
            Limit::Processes => "processes",
            Limit::Disk => "disk_bytes",
            Limit::Network => "network",
            Limit::Filesystem => "filesystem",
            Limit::Syscalls => "syscalls",
        }
    }
}

/// One line of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// The limit.
    pub limit: Limit,
    /// What enforces it. `None`: nothing does.
    pub mechanism: Option<&'static str>,
    /// Why nothing does. Empty when something does.
    pub reason: &'static str,
}

impl Enforcement {
    /// A limit that holds, and by what.
    pub const fn by(limit: Limit, mechanism: &'static str) -> Enforcement {
        Enforcement { limit, mechanism: Some(mechanism), reason: "" }
    }

    /// A limit that does not hold, and why.
    pub const fn none(limit: Limit, reason: &'static str) -> Enforcement {
        Enforcement { limit, mechanism: None, reason }
    }

    /// Whether the limit holds.
    pub fn holds(&self) -> bool {
        self.mechanism.is_some()
    }
}
