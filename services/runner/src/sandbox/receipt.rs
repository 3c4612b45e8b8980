//! The enforcement receipt: which limits were really enforced, by what.

/// Something that a sandbox can hold a script to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Wall-clock time.
    WallTime,
    /// Processor time.
    CpuTime,
    /// Processor share.
    Cpu,
    /// Bytes of memory.
    Memory,
    /// The number of processes and threads.
    Processes,
    /// Bytes of output.
    Output,
    /// Bytes of one file.
    FileSize,
    /// Bytes of all files.
    Disk,
    /// No network.
    Network,
    /// Only the files that a runtime needs.
    Filesystem,
    /// Only the system calls that a runtime needs.
    Syscalls,
}

impl Limit {
    /// All of them, in the order of receipts.
    pub const ALL: [Limit; 11] = [
        Limit::WallTime,
        Limit::CpuTime,
        Limit::Cpu,
        Limit::Memory,
        Limit::Processes,
        Limit::Output,
        Limit::FileSize,
        Limit::Disk,
        Limit::Network,
        Limit::Filesystem,
        Limit::Syscalls,
    ];

    /// The name in the API; all but the last three are fields of the contract's `Limits`.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::WallTime => "wall_time",
            Limit::CpuTime => "cpu_time",
            Limit::Cpu => "cpu_millis",
            Limit::Memory => "memory_bytes",
            Limit::Processes => "processes",
            Limit::Output => "output_bytes",
            Limit::FileSize => "file_bytes",
            Limit::Disk => "disk_bytes",
            Limit::Network => "network",
            Limit::Filesystem => "filesystem",
            Limit::Syscalls => "syscalls",
        }
    }
}

/// How far a limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// For the whole run, whatever its script does.
    Full,
    /// Something holds it in part, such as each process by itself; the reason says what is missing.
    Partial,
    /// Nothing does.
    None,
}

/// One line of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enforcement {
    /// The limit.
    pub limit: Limit,
    /// How far it holds.
    pub level: Level,
    /// What was asked for: a duration such as `60s`, or a number in the unit that the limit's name says. `none` and
    /// `allow-list` where there is nothing to count. Empty: nothing was.
    pub asked: String,
    /// What holds, in the same form. Empty: nothing does.
    pub enforced: String,
    /// What enforces it. Empty: nothing does.
    pub mechanism: String,
    /// Why it does not hold in full. Empty when it does.
    pub reason: String,
}

impl Enforcement {
    /// Whether the limit holds in full.
    pub fn holds(&self) -> bool {
        self.level == Level::Full
    }

    /// Whether a strict run has to be refused for it: something was asked for that does not hold in full.
    pub fn violates_strict(&self) -> bool {
        !self.holds() && !self.asked.is_empty()
    }
}
