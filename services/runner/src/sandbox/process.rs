//! Scripts as ordinary processes of this machine: a process group and a working folder each.
//!
//! It holds a script to its wall time and its output, and to nothing else: its receipt says so.
//!
//! - The folder `root/EXECUTION-ATTEMPT` (mode 0700) holds `work`, where the script starts, and `tmp`. Nobody but one
//!   node uses a root: it is locked, so that [`Sandbox::recover`] may remove whatever is in it.
//! - The environment is cleared; [`MARKER`] in it is how leftovers of a killed node are found.
//! - Starting goes through `posix_spawn` (no `pre_exec`), which doesn't copy the node's page tables.
//! - The process group is killed before its leader is reaped, while its id can't have been given to another.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;

use super::{Enforcement, Limit, Recovered, Run, RunSpec, Sandbox, SandboxError, Started};

mod child;
mod coalesce;
mod folder;
mod leftovers;
mod pipes;
mod supervise;
mod sys;

use child::Launched;
use folder::Folder;
use supervise::Supervisor;

/// The environment variable that marks every process of a script; its value is the execution's id.
pub const MARKER: &str = "RUNMESH_EXECUTION_ID";

const RECEIPT: &[Enforcement] = &[
    Enforcement::by(Limit::WallTime, "SIGKILL to the process group at the deadline"),
    Enforcement::by(Limit::Output, "bytes counted while reading; SIGKILL to the process group beyond the limit"),
    Enforcement::none(Limit::Memory, "the process sandbox has no cgroup yet"),
    Enforcement::none(Limit::Cpu, "the process sandbox has no cgroup yet"),
    Enforcement::none(Limit::Processes, "the process sandbox has no cgroup yet"),
    Enforcement::none(Limit::Disk, "the working folder is an ordinary folder"),
    Enforcement::none(Limit::Network, "the process sandbox has no network namespace yet"),
    Enforcement::none(Limit::Filesystem, "the process sandbox has no mount namespace yet"),
    Enforcement::none(Limit::Syscalls, "the process sandbox has no seccomp filter yet"),
];

/// How scripts run as processes.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// The folder for working folders. Made if missing; of one node only.
    pub root: PathBuf,
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

impl ProcessConfig {
    /// The defaults, with this root.
    pub fn new(root: impl Into<PathBuf>) -> ProcessConfig {
        ProcessConfig {
            root: root.into(),
            cancel_grace: Duration::from_secs(2),
            drain_grace: Duration::from_millis(100),
            coalesce: Duration::from_millis(5),
            chunk_bytes: 64 * 1024,
            chunk_buffer: 2,
        }
    }
}

/// The sandbox of ordinary processes. See the module.
#[derive(Debug)]
pub struct ProcessSandbox {
    config: Arc<ProcessConfig>,
    _lock: File,
}

impl ProcessSandbox {
    /// Makes the root folder if it is missing, and locks it.
    ///
    /// # Errors
    ///
    /// The folder can't be made or locked, or another node has it.
    pub fn open(config: ProcessConfig) -> Result<ProcessSandbox, SandboxError> {
        let root = std::path::absolute(&config.root).map_err(SandboxError::io("name", &config.root))?;
        folder::make_root(&root)?;
        // Real, so that it can be compared with what /proc says of processes.
        let root = root.canonicalize().map_err(SandboxError::io("resolve", root))?;
        let lock = lock(&root)?;
        Ok(ProcessSandbox { config: Arc::new(ProcessConfig { root, ..config }), _lock: lock })
    }

    /// The folder in which working folders are made.
    pub fn root(&self) -> &Path {
        &self.config.root
    }
}

#[async_trait]
impl Sandbox for ProcessSandbox {
    fn name(&self) -> &'static str {
        "process"
    }

    fn receipt(&self) -> &[Enforcement] {
        RECEIPT
    }

    async fn start(&self, spec: RunSpec) -> Result<Run, SandboxError> {
        let config = Arc::clone(&self.config);
        let limits = spec.limits.clone();
        let stdin = spec.stdin.clone();
        let name = folder::name_of(&spec)?;
        let execution_id = spec.execution_id.clone();
        // If this future is dropped here, what the closure returns is dropped, and with it the process and the folder.
        let launched = blocking(move || launch(&config, &spec)).await??;
        let started = Started { name, pid: Some(launched.child.pid()), at: launched.at };
        let (run, side) = Run::new(started, self.config.chunk_buffer);
        let supervisor = Supervisor::new(Arc::clone(&self.config), execution_id, limits, launched, stdin, side)?;
        tokio::spawn(supervisor.run());
        Ok(run)
    }

    async fn recover(&self) -> Result<Recovered, SandboxError> {
        let root = self.config.root.clone();
        blocking(move || {
            let processes = leftovers::kill(&root, None, 0);
            let folders = folder::remove_all(&root)?;
            Ok(Recovered { processes, folders })
        })
        .await?
    }
}

fn launch(config: &ProcessConfig, spec: &RunSpec) -> Result<Launched, SandboxError> {
    let folder = Folder::create(&config.root, spec)?;
    let (began, at) = (Instant::now(), SystemTime::now());
    child::launch(spec, folder, began, at)
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
