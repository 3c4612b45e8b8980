//! What it means to run one script: the seam between the runner and whatever isolates scripts.
//!
//! A backend implements [`Sandbox`]. [`Sandbox::start`] returns once the script runs; the [`Run`] it returns gives
//! the output while it is written and, at the end, one [`Outcome`]. Dropping a [`Run`] ends the script and removes
//! everything that was made for it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

mod error;
pub mod process;
mod receipt;
mod run;

pub use error::{PathError, SandboxError};
pub use receipt::{Enforcement, Level, Limit};
pub use run::{Canceller, Demand, Run, RunSide};

/// What to run, where everything has been decided: which interpreter, which files, which limits.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The execution that this is a run of: letters, digits, `-`, `_` and `.`, at most 128.
    pub execution_id: String,
    /// Which attempt at it, from 1. One execution and attempt runs at most once at a time.
    pub attempt: u32,
    /// Which of several runs of that attempt this is, such as `compile` or `case-17`: letters, digits and `-`, at most 32.
    /// Parts of one attempt may run at the same time, each in a folder of its own. Empty: the only one.
    pub part: String,
    /// The program by its absolute path, or by one in the working folder that begins with `./`; then its arguments.
    pub command: Vec<String>,
    /// The files placed in the working folder before the start.
    pub files: Vec<SourceFile>,
    /// The bytes given on standard input, which then ends.
    pub stdin: Bytes,
    /// Environment variables, added to the few that a sandbox sets itself.
    pub environment: BTreeMap<String, String>,
    /// The limits asked for.
    pub limits: Limits,
    /// Refuse to run where one of the limits can't be held to in full.
    pub strict: bool,
    /// Give back files of the working folder after a main process that exited with 0: what a compiler made.
    pub collect: Option<Collect>,
}

/// What of the working folder is given back. More than that is a failure of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collect {
    /// The folder below the working folder whose regular files are given back, those in folders below it too. Their paths
    /// are those in the working folder, so that they can be the files of a next run.
    pub folder: String,
    /// The greatest number of files.
    pub files: usize,
    /// The greatest number of bytes of all files together.
    pub bytes: u64,
}

/// A file of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// A relative path with `/` between its parts.
    pub path: String,
    /// The file's bytes.
    pub content: Bytes,
}

/// The limits asked for. Which of them hold is said by [`Outcome::receipt`]. `None`: the sandbox's own limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time from the start of the script.
    pub wall_time: Duration,
    /// Bytes of output, standard output and standard error together.
    pub output_bytes: u64,
    /// Processor time of all processes together. `None`: no limit beyond `wall_time` and `cpu_millis`.
    pub cpu_time: Option<Duration>,
    /// Bytes of memory of all processes together, files in the working folder included.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor core.
    pub cpu_millis: Option<u32>,
    /// Processes and threads at once.
    pub processes: Option<u32>,
    /// Bytes of all files that the script makes.
    pub disk_bytes: Option<u64>,
    /// Bytes of any one file that the script writes.
    pub file_bytes: Option<u64>,
}

impl Default for Limits {
    /// A minute, 16 MiB of output, and the sandbox's own limits.
    fn default() -> Self {
        Limits {
            wall_time: Duration::from_secs(60),
            output_bytes: 16 << 20,
            cpu_time: None,
            memory_bytes: None,
            cpu_millis: None,
            processes: None,
            disk_bytes: None,
            file_bytes: None,
        }
    }
}

/// One of the two streams that a script writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output, in the order in which it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The stream it was written to.
    pub stream: OutputStream,
    /// The number of bytes that the stream had before this piece.
    pub offset: u64,
    /// The bytes, at least one. A character may be split between two pieces.
    pub data: Bytes,
}

/// What is known once the script runs.
#[derive(Clone, Debug)]
pub struct Started {
    /// The sandbox's name for this run, unique per execution and attempt: the pod's name in events.
    pub name: String,
    /// The main process on this machine, if it is one.
    pub pid: Option<u32>,
    /// Whether its interpreter had been started in advance, and waited for it.
    pub prepared: bool,
    /// When the script was started.
    pub at: SystemTime,
    /// What was asked for and what holds.
    pub receipt: Vec<Enforcement>,
}

/// How a run ended, on the evidence of the main process's wait status, of the kernel's counters for the run, and of what
/// the sandbox itself did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The verdict.
    pub ending: Ending,
    /// What it used.
    pub usage: Usage,
    /// What was asked for and what really held.
    pub receipt: Vec<Enforcement>,
    /// The files of the working folder, in the order of their paths, if [`RunSpec::collect`] asked for them and the main
    /// process exited with 0.
    pub collected: Vec<SourceFile>,
}

/// The verdict of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The main process exited by itself with this code.
    Exited(i32),
    /// A signal that did not come from the sandbox ended the main process.
    Signaled(i32),
    /// The wall-time limit was reached and the script was killed.
    TimedOut,
    /// The processes used more processor time than their limit and were killed.
    CpuTimedOut,
    /// The memory limit was reached: the kernel killed a process for it (`evidence` says how that is known), and the main
    /// process did not succeed.
    OutOfMemory {
        /// What tells it.
        evidence: String,
    },
    /// The kernel refused processes or threads beyond the limit, and the main process did not succeed or went on asking.
    ProcessLimit {
        /// How many the kernel refused.
        refused: u64,
    },
    /// A file would have been larger than the limit: SIGXFSZ ended the main process.
    FileSizeLimit,
    /// The working folder was full at the end, and the main process did not succeed.
    DiskLimit,
    /// The script wrote more than its output limit and was killed. What it wrote up to the limit was delivered.
    OutputLimit,
    /// It was cancelled while it ran.
    Cancelled {
        /// It did not end within the grace period after SIGTERM and was killed.
        forced: bool,
    },
    /// The main process exited with 0, but left more to give back than [`RunSpec::collect`] allows, or what can't be given
    /// back.
    TooMuchToCollect {
        /// What there is too much of.
        reason: String,
    },
    /// The sandbox lost hold of the script: never the script's fault.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// What a run used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the start of the main process to its end.
    pub wall: Duration,
    /// Processor time in user mode: of all processes where a cgroup counts it, otherwise of those that were waited for.
    pub cpu_user: Duration,
    /// Processor time in the kernel, of the same processes.
    pub cpu_system: Duration,
    /// The most memory in use at once, in bytes: of all processes where a cgroup counts it, otherwise of the largest one.
    /// `None`: it could not be measured.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes delivered from standard output.
    pub stdout_bytes: u64,
    /// Bytes delivered from standard error.
    pub stderr_bytes: u64,
}

/// What [`Sandbox::recover`] found and ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Processes killed.
    pub processes: usize,
    /// Working folders removed.
    pub folders: usize,
}

/// Something that exists on this machine and belongs to no run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stray {
    /// A process of a sandbox, and when it started, in ticks since the machine did.
    Process {
        /// Its id.
        pid: u32,
        /// Its start.
        started: u64,
    },
    /// A working folder.
    Folder(PathBuf),
    /// A control group.
    Cgroup(PathBuf),
}

impl Stray {
    /// What kind of thing it is, as one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Stray::Process { .. } => "sandbox",
            Stray::Folder(_) => "folder",
            Stray::Cgroup(_) => "cgroup",
        }
    }
}

impl fmt::Display for Stray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stray::Process { pid, .. } => write!(f, "the process {pid}"),
            Stray::Folder(path) => write!(f, "the folder {}", path.display()),
            Stray::Cgroup(path) => write!(f, "the cgroup {}", path.display()),
        }
    }
}

/// A place where scripts run.
#[async_trait]
pub trait Sandbox: Send + Sync + 'static {
    /// The backend's name, such as `process`.
    fn name(&self) -> &'static str;

    /// What it would enforce of these limits on this machine, and what it would not and why.
    fn receipt(&self, limits: &Limits) -> Vec<Enforcement>;

    /// Starts a script. Must be called on a tokio runtime. If the call is dropped before it returns, nothing is left.
    ///
    /// # Errors
    ///
    /// The script did not start: see [`SandboxError`], which says whether the request or the sandbox is to blame.
    async fn start(&self, spec: RunSpec) -> Result<Run, SandboxError>;

    /// Ends and removes what earlier nodes left behind in this sandbox. To be called before the first start.
    ///
    /// # Errors
    ///
    /// The leftovers could not be listed.
    async fn recover(&self) -> Result<Recovered, SandboxError>;

    /// What exists and belongs to no run: in ordinary operation nothing. What was removed just now may be among it.
    ///
    /// # Errors
    ///
    /// What exists could not be listed.
    async fn strays(&self) -> Result<Vec<Stray>, SandboxError>;

    /// Ends and removes those of these that are strays still, and returns them. What can't be removed is left.
    ///
    /// # Errors
    ///
    /// What exists could not be listed.
    async fn remove_strays(&self, seen: Vec<Stray>) -> Result<Vec<Stray>, SandboxError>;

    /// Ends what waits for scripts, and removes what was made for all of them. To be called when none runs any more; none is
    /// started from then on.
    async fn close(&self);
}
