//! What it means to run one script: the seam between the runner and whatever isolates scripts.
//!
//! A backend implements [`Sandbox`]. [`Sandbox::start`] returns once the script runs; the [`Run`] it returns gives
//! the output while it is written and, at the end, one [`Outcome`]. Dropping a [`Run`] ends the script and removes
//! everything that was made for it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

mod error;
pub mod process;
mod receipt;
mod run;

pub use error::{PathError, SandboxError};
pub use receipt::{Enforcement, Limit};
pub use run::{Canceller, Demand, Run, RunSide};

/// What to run, where everything has been decided: which interpreter, which files, which limits.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The execution that this is a run of: letters, digits, `-`, `_` and `.`, at most 128.
    pub execution_id: String,
    /// Which attempt at it, from 1. One execution and attempt runs at most once at a time.
    pub attempt: u32,
    /// The program by its absolute path, then its arguments.
    pub command: Vec<String>,
    /// The files placed in the working folder before the start.
    pub files: Vec<SourceFile>,
    /// The bytes given on standard input, which then ends.
    pub stdin: Bytes,
    /// Environment variables, added to the few that a sandbox sets itself.
    pub environment: BTreeMap<String, String>,
    /// The limits asked for.
    pub limits: Limits,
}

/// A file of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// A relative path with `/` between its parts.
    pub path: String,
    /// The file's bytes.
    pub content: Bytes,
}

/// The limits asked for. Which of them hold is said by [`Outcome::receipt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall-clock time from the start of the script.
    pub wall_time: Duration,
    /// Bytes of output, standard output and standard error together.
    pub output_bytes: u64,
    /// Bytes of memory. `None`: the sandbox's own limit, if it has one.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor core. `None`: as above.
    pub cpu_millis: Option<u32>,
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
    /// When the script was started.
    pub at: SystemTime,
}

/// How a run ended, on the evidence of the main process's wait status and of what the sandbox itself did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The verdict.
    pub ending: Ending,
    /// What it used.
    pub usage: Usage,
    /// What was asked for and what really held.
    pub receipt: Vec<Enforcement>,
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
    /// The script wrote more than its output limit and was killed. What it wrote up to the limit was delivered.
    OutputLimit,
    /// It was cancelled while it ran.
    Cancelled {
        /// It did not end within the grace period after SIGTERM and was killed.
        forced: bool,
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
    /// Processor time in user mode, of the main process and those it waited for.
    pub cpu_user: Duration,
    /// Processor time in the kernel, of the same processes.
    pub cpu_system: Duration,
    /// The greatest resident set seen, in bytes. `None`: it ended too soon to be measured.
    pub peak_rss_bytes: Option<u64>,
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

/// A place where scripts run.
#[async_trait]
pub trait Sandbox: Send + Sync + 'static {
    /// The backend's name, such as `process`.
    fn name(&self) -> &'static str;

    /// What it enforces on this machine, and what it does not and why.
    fn receipt(&self) -> &[Enforcement];

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
}
