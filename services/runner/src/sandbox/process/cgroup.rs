//! Control groups: limits for all processes of a run together, and the kernel's counters as evidence. One interface over
//! both versions, since machines have the one, the other, or a mixture.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::known::{Known, Mark};
use super::wire::Entry;

use rustix::process::{Pid, Signal};

use counter::Counter;

mod counter;
mod discover;
mod orphans;
mod v1;
mod v2;

/// What the name of a node's cgroup begins with; sixteen hexadecimal digits follow.
pub(super) const PREFIX: &str = "runmesh-";

/// How long the removal of a cgroup is tried: its last processes may just be ending.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it is believed how well a limit of memory holds: swap may be switched on and off.
const WEAKNESS: Duration = Duration::from_secs(1);

/// The time over which a processor share is measured, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// What a controller is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Processes,
    Cpu,
    /// Counts processor time; part of `Cpu` in version 2.
    CpuCount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// The folders of one cgroup, by controller. In version 2 they are all the same.
#[derive(Clone, Debug, Default)]
struct Folders {
    memory: Option<PathBuf>,
    processes: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpu_count: Option<PathBuf>,
}

/// The cgroups that this node may make: a parent of its own per hierarchy. Removed when dropped.
#[derive(Debug)]
pub(super) struct Cgroups {
    version: Version,
    parents: Folders,
    /// What is missing, and why.
    missing: Vec<(Controller, String)>,
    /// Why a limit of memory does not hold in full, and when that was looked at.
    weakness: Mutex<Option<(Instant, Option<&'static str>)>>,
    /// The names of those in use.
    known: Arc<Known<String>>,
    /// The parents as they are held: who else gets one of them knows that nobody has it any more.
    _held: Vec<fs::File>,
}

/// The cgroup of one run. Removed when dropped, with what is in it killed.
#[derive(Debug)]
pub(super) struct Cgroup {
    version: Version,
    folders: Folders,
    limits: CgroupLimits,
    counters: Counters,
    _name: Mark<String>,
}

/// What the kernel counts of a cgroup.
#[derive(Debug, Default)]
struct Counters {
    memory_events: Counter,
    peak_memory: Counter,
    /// Version 1 counts the buffers of sockets by themselves.
    peak_sockets: Counter,
    processes: Counter,
    /// Both kinds of processor time, or that in user mode.
    cpu: Counter,
    cpu_system: Counter,
}

impl Counters {
    fn open(version: Version, folders: &Folders) -> io::Result<Counters> {
        let open = |controller, name| Counter::open(folders.get(controller), name);
        let [events, peak, sockets, cpu, cpu_system] = match version {
            Version::One => v1::COUNTERS,
            Version::Two => v2::COUNTERS,
        };
        Ok(Counters {
            memory_events: open(Controller::Memory, events)?,
            peak_memory: open(Controller::Memory, peak)?,
            peak_sockets: open(Controller::Memory, sockets)?,
            processes: open(Controller::Processes, "pids.events")?,
            cpu: open(Controller::CpuCount, cpu)?,
            cpu_system: open(Controller::CpuCount, cpu_system)?,
        })
    }
}

/// The limits of a cgroup. `None`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CgroupLimits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) processes: Option<u32>,
    pub(super) cpu_millis: Option<u32>,
}

/// What the kernel counted. `None`: it did not count that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// How many processes it killed for want of memory.
    pub(super) oom_kills: Option<u64>,
    /// How often it refused a new process or thread.
    pub(super) refused_processes: Option<u64>,
    pub(super) cpu_user: Option<Duration>,
    pub(super) cpu_system: Option<Duration>,
    pub(super) peak_memory_bytes: Option<u64>,
}

impl Folders {
    fn get(&self, controller: Controller) -> Option<&Path> {
        match controller {
            Controller::Memory => self.memory.as_deref(),
            Controller::Processes => self.processes.as_deref(),
            Controller::Cpu => self.cpu.as_deref(),
            Controller::CpuCount => self.cpu_count.as_deref(),
        }
    }

    fn set(&mut self, controller: Controller, folder: PathBuf) {
        match controller {
            Controller::Memory => self.memory = Some(folder),
            Controller::Processes => self.processes = Some(folder),
            Controller::Cpu => self.cpu = Some(folder),
            Controller::CpuCount => self.cpu_count = Some(folder),
        }
    }

    /// Each folder once.
    fn each(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = Controller::ALL.iter().filter_map(|controller| self.get(*controller)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn below(&self, name: &str) -> Folders {
        let below = |folder: &Option<PathBuf>| folder.as_ref().map(|folder| folder.join(name));
        Folders {
            memory: below(&self.memory),
            processes: below(&self.processes),
            cpu: below(&self.cpu),
            cpu_count: below(&self.cpu_count),
        }
    }
}

impl Controller {
    const ALL: [Controller; 4] = [Controller::Memory, Controller::Processes, Controller::Cpu, Controller::CpuCount];
}

impl Cgroups {
    /// The cgroups below this process's own, in a parent of this name. What an earlier node of the same name left in it is
    /// killed and removed, and so are the parents of other nodes that are no more: the kernel gets slower with every cgroup.
    ///
    /// # Errors
    ///
    /// There are none that this process may use, and why.
    pub(super) fn open(name: &str) -> Result<Cgroups, String> {
        let found = discover::discover(name)?;
        let discover::Found { version, parents, missing, held } = found;
        let (weakness, known) = Default::default();
        let cgroups = Cgroups { version, parents, missing, weakness, known, _held: held };
        cgroups.clear();
        for parent in cgroups.parents.each() {
            orphans::remove(parent);
        }
        Ok(cgroups)
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// The folders in which cgroups are made.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        self.parents.each().into_iter().map(Path::to_owned).collect()
    }

    /// Why there is no such controller. `None`: there is one.
    pub(super) fn missing(&self, controller: Controller) -> Option<&str> {
        if self.parents.get(controller).is_some() {
            return None;
        }
        let found = self.missing.iter().find(|(missing, _)| *missing == controller);
        Some(found.map_or("the kernel has no such controller here", |(_, why)| why))
    }

    /// Why a limit of memory does not hold in full. `None`: it does.
    pub(super) fn memory_weakness(&self) -> Option<&'static str> {
        let folder = self.parents.get(Controller::Memory)?;
        let mut known = self.weakness.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, weakness)) = *known
            && at.elapsed() < WEAKNESS
        {
            return weakness;
        }
        let weakness = match self.version {
            Version::One => v1::weakness(folder),
            Version::Two => v2::weakness(folder),
        };
        *known = Some((Instant::now(), weakness));
        weakness
    }

    /// Makes the cgroup of a run.
    pub(super) fn create(&self, name: &str) -> io::Result<Cgroup> {
        let _name = self.known.mark(name.to_owned());
        let (folders, limits) = (self.parents.below(name), CgroupLimits::default());
        let mut cgroup = Cgroup { version: self.version, folders, limits, counters: Counters::default(), _name };
        for folder in cgroup.folders.each() {
            fs::create_dir(folder)?;
        }
        cgroup.counters = Counters::open(self.version, &cgroup.folders)?;
        Ok(cgroup)
    }

    /// Kills and removes every cgroup of a run. Returns how many processes there were.
    pub(super) fn clear(&self) -> usize {
        self.parents.each().into_iter().map(clear).sum()
    }

    /// Kills and removes all, and their parents.
    pub(super) fn close(&self) {
        self.clear();
        for parent in self.parents.each() {
            fs::remove_dir(parent).ok();
        }
    }

    /// Those that belong to no sandbox.
    pub(super) fn strays(&self) -> Vec<PathBuf> {
        let name = |folder: &PathBuf| folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let mut all = self.all();
        all.retain(|folder| name(folder).is_none_or(|name| !self.known.has(&name)));
        all
    }

    fn all(&self) -> Vec<PathBuf> {
        self.parents.each().into_iter().flat_map(below).collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.close();
    }
}

impl Cgroup {
    /// How a new process gets in by itself, and with what.
    pub(super) fn entrance(&self) -> io::Result<(Entry, Vec<OwnedFd>)> {
        let folders = self.folders.each();
        match (self.version, folders.first()) {
            (Version::Two, Some(folder)) => Ok((Entry::Born, vec![fs::File::open(folder)?.into()])),
            _ => {
                let tasks = |folder: &&Path| fs::File::options().write(true).open(folder.join("tasks"));
                let opened =
                    folders.iter().map(|folder| tasks(folder).map(OwnedFd::from)).collect::<io::Result<_>>()?;
                Ok((Entry::Joins, opened))
            }
        }
    }

    /// Moves a process in. Slow (some ms) after a quiet time: the kernel waits for all processors. [`Self::entrance`] is not.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        for folder in self.folders.each() {
            fs::write(folder.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// The limits that it has.
    pub(super) fn limits(&self) -> &CgroupLimits {
        &self.limits
    }

    /// Sets limits instead of those that it has; a new one has none. Only what differs is written.
    pub(super) fn limit(&mut self, limits: &CgroupLimits) -> io::Result<()> {
        let CgroupLimits { memory_bytes, processes, cpu_millis } = *limits;
        if memory_bytes != self.limits.memory_bytes
            && let Some(folder) = self.folders.get(Controller::Memory)
        {
            let is_limited = self.limits.memory_bytes.is_some();
            match self.version {
                Version::One => v1::limit_memory(folder, memory_bytes, is_limited)?,
                Version::Two => v2::limit_memory(folder, memory_bytes)?,
            }
        }
        if processes != self.limits.processes
            && let Some(folder) = self.folders.get(Controller::Processes)
        {
            fs::write(folder.join("pids.max"), processes.map_or("max".to_owned(), |count| count.to_string()))?;
        }
        if cpu_millis != self.limits.cpu_millis
            && let Some(folder) = self.folders.get(Controller::Cpu)
        {
            match self.version {
                Version::One => v1::limit_cpu(folder, cpu_millis)?,
                Version::Two => v2::limit_cpu(folder, cpu_millis)?,
            }
        }
        self.limits = *limits;
        Ok(())
    }

    /// What the kernel has counted so far.
    pub(super) fn evidence(&self) -> Evidence {
        let mut evidence = match self.version {
            Version::One => v1::evidence(&self.counters),
            Version::Two => v2::evidence(&self.counters),
        };
        evidence.refused_processes = self.refused_processes();
        evidence
    }

    /// How often a new process or thread was refused.
    pub(super) fn refused_processes(&self) -> Option<u64> {
        field(&self.counters.processes.text()?, "max")
    }

    /// The processor time used so far, by all processes together.
    pub(super) fn cpu(&self) -> Option<Duration> {
        self.cpu_times().map(|(user, system)| user + system)
    }

    /// The same, in user mode and in the kernel.
    pub(super) fn cpu_times(&self) -> Option<(Duration, Duration)> {
        match self.version {
            Version::One => v1::cpu(&self.counters),
            Version::Two => v2::cpu(&self.counters),
        }
    }

    /// Forgets the peak of memory so far. Version 2 can't do that for all readers.
    pub(super) fn reset_peak(&self) -> io::Result<()> {
        match (self.version, self.folders.get(Controller::Memory)) {
            (Version::One, Some(folder)) => v1::reset_peak(folder),
            _ => Ok(()),
        }
    }

    /// Removes it. Whatever is left in it is killed.
    fn remove_all(&self) -> io::Result<()> {
        let mut result = Ok(());
        for folder in self.folders.each() {
            if fs::remove_dir(folder).is_err() {
                kill(folder);
                result = result.and(remove(folder));
            }
        }
        result
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.remove_all() {
            tracing::warn!(%error, "a cgroup is left behind");
        }
    }
}

/// The cgroups in this one.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Kills and removes every cgroup in this one. Returns how many processes there were.
fn clear(parent: &Path) -> usize {
    let end = |folder: PathBuf| {
        let killed = kill(&folder);
        remove(&folder).ok();
        killed
    };
    below(parent).into_iter().map(end).sum()
}

/// Kills everything in a cgroup. Returns how many processes there were.
fn kill(folder: &Path) -> usize {
    let procs = || fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let found = procs().lines().count();
    // Version 2, since Linux 5.14: all at once.
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return found;
    }
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        let text = procs();
        let pids: Vec<Pid> = text.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    found
}

/// Kills and removes a cgroup that nobody has. Returns whether it was there.
pub(super) fn remove_stray(folder: &Path) -> io::Result<bool> {
    if !folder.exists() {
        return Ok(false);
    }
    kill(folder);
    remove(folder).map(|()| true)
}

fn remove(folder: &Path) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy && since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// The number behind a name, in a file of lines such as `name 5`.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

/// The processor time in each [`PERIOD`] of this share, in microseconds. The kernel takes no less than 1 ms.
fn quota(millis: u32) -> u64 {
    (u64::from(millis) * PERIOD / 1000).max(1000)
}

/// Writes to a file that not every kernel has, or lets be written to.
fn write_if_there(path: &Path, text: &str) -> io::Result<()> {
    match fs::write(path, text) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(()),
        other => other,
    }
}

/// Whether memory can be swapped out on this machine.
fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// The number that is all of a file.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }
}
