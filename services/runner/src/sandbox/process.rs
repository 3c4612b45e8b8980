//! Scripts as processes of this machine, each in a sandbox of its own, with whatever the machine allows.
//!
//! - A helper process with one thread makes the sandboxes ([`helper`]); a sandbox has a first process, which starts the
//!   script and ends everything in it. As root, or inside a user namespace, it has namespaces for everything and a
//!   read-only root with only what runtimes need; otherwise it has a folder below `root`. Which of these it is, is tried
//!   out when the sandbox is opened.
//! - A cgroup per run limits and counts where cgroups may be made, limits per process or user where not.
//! - The receipt says which limit is held by what ([`receipt`]).
//! - Sandboxes are set up in advance ([`pool`]) and used once; in some an interpreter waits already ([`warm`]).
//! - Nobody but one node uses a root: it is locked, so that [`Sandbox::recover`] may remove whatever is in it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Enforcement, Limits, Recovered, Run, RunSpec, Sandbox, SandboxError, Started, Stray};

mod advice;
mod cgroup;
mod coalesce;
mod collect;
mod ending;
mod folder;
pub mod helper;
mod known;
mod launcher;
mod leftovers;
mod notices;
mod open;
mod order;
mod pipes;
mod pool;
mod prepared;
mod receipt;
mod start;
mod strays;
mod supervise;
mod sys;
mod users;
mod warm;
mod wire;

pub use launcher::HelperCommand;

use cgroup::Cgroups;
use known::Known;
use launcher::Launcher;
use order::Queues;
use pool::Pool;
use prepared::Prepared;
use receipt::Held;
use start::Start;
use supervise::Supervisor;
use users::Users;

/// The environment variable that marks every process of a script; its value is the execution's id.
pub const MARKER: &str = "RUNMESH_EXECUTION_ID";

/// Where a script finds itself, in namespaces of its own.
const WORK: &str = "/work";
const TEMPORARY: &str = "/tmp";

/// How scripts run as processes.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// The folder for what is made. Made if missing; of one node only.
    pub root: PathBuf,
    /// What scripts may read and run, beside the system's own folders: interpreters elsewhere.
    pub readable: Vec<PathBuf>,
    /// How many sandboxes are set up in advance.
    pub pool: usize,
    /// Python interpreters, version 3.8 or later, that may be started in advance as well: one in each sandbox that waits,
    /// once a run has come that could have used it. Needs a file system for each sandbox, so namespaces.
    pub prepare: Vec<PathBuf>,
    /// What is not to be used, though the machine may have it.
    pub avoid: Avoid,
    /// How the helper is started.
    pub helper: HelperCommand,
    /// Bytes of memory of a run that asks for no other limit. `None`: unlimited.
    pub memory_bytes: Option<u64>,
    /// Processes and threads of a run that asks for no other limit. `None`: unlimited.
    pub processes: Option<u32>,
    /// Bytes of the files of a run that asks for no other limit.
    pub disk_bytes: u64,
    /// The number of files of a run.
    pub disk_files: u64,
    /// Open files of each process.
    pub open_files: u64,
    /// How long a cancelled script has between SIGTERM and SIGKILL.
    pub cancel_grace: Duration,
    /// How long output is awaited from other processes of the script after its main process ended.
    pub drain_grace: Duration,
    /// The shortest time between two small chunks. A line that comes after a quiet time is not delayed.
    pub coalesce: Duration,
    /// The greatest chunk, in bytes.
    pub chunk_bytes: usize,
    /// How many chunks wait for the owner of a run before its script has to.
    pub chunk_buffer: usize,
}

/// What is not to be used, though the machine may have it. The receipt says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Avoid {
    /// Namespaces of any kind.
    pub namespaces: bool,
    /// Namespaces that need no user namespace, which root can make.
    pub privileges: bool,
    /// Control groups.
    pub cgroups: bool,
    /// Landlock.
    pub landlock: bool,
    /// The filter of system calls.
    pub seccomp: bool,
}

impl ProcessConfig {
    /// The defaults, with this root.
    pub fn new(root: impl Into<PathBuf>) -> ProcessConfig {
        ProcessConfig {
            root: root.into(),
            readable: Vec::new(),
            pool: 2,
            prepare: Vec::new(),
            avoid: Avoid::default(),
            helper: HelperCommand::default(),
            memory_bytes: Some(512 << 20),
            processes: Some(256),
            disk_bytes: 256 << 20,
            disk_files: 65_536,
            open_files: 1024,
            cancel_grace: Duration::from_secs(2),
            drain_grace: Duration::from_millis(100),
            coalesce: Duration::from_millis(5),
            chunk_bytes: 64 * 1024,
            chunk_buffer: 2,
        }
    }
}

/// The sandbox of processes. See the module.
#[derive(Debug)]
pub struct ProcessSandbox {
    // The pool ends before what its sandboxes are made with.
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    _lock: File,
}

/// What all runs share.
#[derive(Debug)]
struct Shared {
    config: ProcessConfig,
    launcher: Launcher,
    /// Why better isolation than the launcher's did not work.
    refusals: Vec<String>,
    /// Where scripts have folders, if they have any on this machine.
    folders: PathBuf,
    /// `None`: scripts run as the node's own user.
    users: Option<Arc<Users>>,
    /// The error says why there are none.
    cgroups: Result<Cgroups, String>,
    /// Whether sandboxes have a network namespace.
    network: bool,
    /// Why not.
    no_network: String,
    /// The names of all runs.
    running: Arc<Known<String>>,
    queues: Arc<Queues>,
    made: AtomicU64,
    /// Whether nothing is started any more.
    closed: AtomicBool,
}

impl Shared {
    /// A name that no other sandbox of this node has.
    fn next_name(&self) -> String {
        format!("run-{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// The user on this machine that a script is, where it is another than the node's.
    fn script_user(&self, sandbox: &Prepared) -> Option<u32> {
        self.launcher.setup().become_user.or_else(|| self.users.is_some().then_some(sandbox.user.id))
    }

    /// Why there are no namespaces.
    fn why_plain(&self) -> String {
        if self.refusals.is_empty() {
            "namespaces are switched off".to_owned()
        } else {
            format!("no namespaces could be made ({})", self.refusals.join("; "))
        }
    }
}

impl ProcessSandbox {
    /// Makes the root folder if it is missing, locks it, and finds out how well scripts can be isolated here. Blocks for
    /// some ms.
    ///
    /// # Errors
    ///
    /// The folder can't be made or locked, another node has it, or the helper can't be started.
    pub fn open(config: ProcessConfig) -> Result<ProcessSandbox, SandboxError> {
        let root = std::path::absolute(&config.root).map_err(SandboxError::io("name", &config.root))?;
        folder::make_root(&root)?;
        // Real, so that it can be compared with what /proc says of processes.
        let root = root.canonicalize().map_err(SandboxError::io("resolve", root))?;
        let lock = lock(&root)?;
        let (shared, first) = open::open(ProcessConfig { root, ..config })?;
        let shared = Arc::new(shared);
        let pool = Arc::new(Pool::start(Arc::clone(&shared), shared.config.pool, first)?);
        Ok(ProcessSandbox { pool, shared, _lock: lock })
    }

    /// The folder in which working folders are made, where scripts have any on this machine.
    pub fn root(&self) -> &Path {
        &self.shared.folders
    }

    /// How many sandboxes are set up and wait for a script.
    pub fn ready(&self) -> usize {
        self.pool.ready()
    }

    /// In how many of them an interpreter waits for it.
    pub fn prepared(&self) -> usize {
        self.pool.prepared()
    }

    /// The folders in which the cgroups of runs are made.
    pub fn cgroup_folders(&self) -> Vec<PathBuf> {
        self.shared.cgroups.as_ref().map(Cgroups::folders).unwrap_or_default()
    }

    /// For tests: loses sight of a sandbox that waits, as if it had been forgotten. Returns its first process.
    ///
    /// # Errors
    ///
    /// There was none, and none could be made.
    #[cfg(feature = "conformance")]
    pub fn lose_one(&self) -> Result<u32, SandboxError> {
        let taken = self.pool.take(None, &cgroup::CgroupLimits::default());
        Ok(taken.map_or_else(|| Prepared::make(&self.shared), Ok)?.lose())
    }

    /// Why better isolation than what is used did not work here, in words.
    pub fn refusals(&self) -> &[String] {
        &self.shared.refusals
    }
}

#[async_trait]
impl Sandbox for ProcessSandbox {
    fn name(&self) -> &'static str {
        "process"
    }

    fn receipt(&self, limits: &Limits) -> Vec<Enforcement> {
        Held::new(&self.shared, limits).lines
    }

    async fn start(&self, spec: RunSpec) -> Result<Run, SandboxError> {
        let held = Held::new(&self.shared, &spec.limits);
        if spec.strict {
            let missing: Vec<Enforcement> = held.lines.iter().filter(|line| line.violates_strict()).cloned().collect();
            if !missing.is_empty() {
                return Err(SandboxError::NotEnforced { missing });
            }
        }
        let (launched, Start { spec, held, .. }) = Start::new(&self.shared, spec, held)?.launch(&self.pool).await?;
        let started = Started {
            name: launched.name.value.clone(),
            pid: launched.main_process,
            prepared: launched.prepared,
            at: launched.at,
            receipt: held.lines.clone(),
        };
        let (run, side) = Run::new(started, self.shared.config.chunk_buffer);
        let supervisor = Supervisor::new(Arc::clone(&self.shared), spec, held, launched, side);
        tokio::spawn(supervisor.run());
        Ok(run)
    }

    async fn close(&self) {
        let (pool, shared) = (Arc::clone(&self.pool), Arc::clone(&self.shared));
        let closed = blocking(move || {
            pool.close();
            if let Ok(cgroups) = &shared.cgroups {
                cgroups.close();
            }
        });
        closed.await.ok();
    }

    async fn recover(&self) -> Result<Recovered, SandboxError> {
        let folders = self.shared.folders.clone();
        blocking(move || {
            let processes = leftovers::kill(&folders, None, 0);
            let folders = folder::remove_all(&folders)?;
            Ok(Recovered { processes, folders })
        })
        .await?
    }

    async fn strays(&self) -> Result<Vec<Stray>, SandboxError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || strays::find(&shared)).await?
    }

    async fn remove_strays(&self, seen: Vec<Stray>) -> Result<Vec<Stray>, SandboxError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let mut removed = Vec::new();
            for stray in strays::find(&shared)?.into_iter().filter(|stray| seen.contains(stray)) {
                match strays::remove(&stray) {
                    Ok(true) => removed.push(stray),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, %stray, "can't be removed; trying again later"),
                }
            }
            Ok(removed)
        })
        .await?
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SandboxError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SandboxError::ShuttingDown)
}

/// Locks the root for as long as the file is open. A node that was just killed may need a moment to let go of it.
fn lock(root: &Path) -> Result<File, SandboxError> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let path = root.join(folder::LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(SandboxError::io("open", &path))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(SandboxError::RootInUse { root: root.to_owned() }),
            Err(std::fs::TryLockError::Error(error)) => return Err(SandboxError::io("lock", path)(error)),
        }
    }
}

/// A system call's error as the standard library has it.
fn os(error: rustix::io::Errno) -> io::Error {
    io::Error::from(error)
}

/// The greatest resident set so far, in bytes, of a process by its name in /proc. `None` once it has ended.
fn peak_rss(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
