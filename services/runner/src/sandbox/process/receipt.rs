//! What of a run's limits is held to on this machine, by what, and what is not and why.

use std::time::Duration;

use super::Shared;
use super::cgroup::{Cgroups, Controller, Version};
use super::wire::Isolation;
use crate::sandbox::{Enforcement, Level, Limit, Limits};

/// The version of Landlock's interface from which it stops signals to others.
const LANDLOCK_SIGNALS: i32 = 6;
/// The version from which it stops TCP.
const LANDLOCK_TCP: i32 = 4;

/// The limits as they are set, and the receipt about them.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// Of the cgroup.
    pub(super) memory_bytes: Option<u64>,
    /// Of the cgroup.
    pub(super) processes: Option<u32>,
    /// Of the cgroup.
    pub(super) cpu_millis: Option<u32>,
    /// Of each process, where no cgroup limits memory.
    pub(super) data_bytes: Option<u64>,
    /// Of the script's user, where no cgroup limits processes.
    pub(super) user_processes: Option<u64>,
    pub(super) cpu_time: Option<Duration>,
    pub(super) disk_bytes: Option<u64>,
    pub(super) file_bytes: Option<u64>,
    pub(super) lines: Vec<Enforcement>,
}

impl Held {
    pub(super) fn new(shared: &Shared, limits: &Limits) -> Held {
        Machine { shared, isolation: shared.launcher.setup().isolation }.held(limits)
    }
}

/// What there is to enforce limits with.
struct Machine<'a> {
    shared: &'a Shared,
    isolation: Isolation,
}

/// Something that holds a limit.
struct By {
    level: Level,
    mechanism: String,
    reason: String,
}

impl By {
    fn full(mechanism: impl Into<String>) -> By {
        By { level: Level::Full, mechanism: mechanism.into(), reason: String::new() }
    }

    fn partial(mechanism: impl Into<String>, reason: impl Into<String>) -> By {
        By { level: Level::Partial, mechanism: mechanism.into(), reason: reason.into() }
    }

    fn none(reason: impl Into<String>) -> By {
        By { level: Level::None, mechanism: String::new(), reason: reason.into() }
    }

    fn line(self, limit: Limit, asked: String, enforced: String) -> Enforcement {
        let enforced = if self.level == Level::None { String::new() } else { enforced };
        Enforcement { limit, level: self.level, asked, enforced, mechanism: self.mechanism, reason: self.reason }
    }
}

impl Machine<'_> {
    fn held(&self, asked: &Limits) -> Held {
        let config = &self.shared.config;
        let memory = asked.memory_bytes.or(config.memory_bytes);
        let processes = asked.processes.or(config.processes);
        let disk = asked.disk_bytes.unwrap_or(config.disk_bytes);
        let file = asked.file_bytes.unwrap_or(disk);
        let has = |controller| self.without(controller).is_none();
        Held {
            memory_bytes: memory.filter(|_| has(Controller::Memory)),
            data_bytes: memory.filter(|_| !has(Controller::Memory)),
            processes: processes.filter(|_| has(Controller::Processes)),
            user_processes: processes.filter(|_| !has(Controller::Processes)).map(|count| self.user_processes(count)),
            cpu_millis: asked.cpu_millis.filter(|_| has(Controller::Cpu)),
            cpu_time: asked.cpu_time,
            disk_bytes: Some(disk),
            file_bytes: Some(file),
            lines: vec![
                self.wall_time().line(Limit::WallTime, seconds(asked.wall_time), seconds(asked.wall_time)),
                self.cpu_time().line(
                    Limit::CpuTime,
                    optional(asked.cpu_time.map(seconds)),
                    optional(asked.cpu_time.map(seconds)),
                ),
                self.cpu().line(Limit::Cpu, optional(asked.cpu_millis), optional(asked.cpu_millis)),
                self.memory().line(Limit::Memory, optional(asked.memory_bytes), optional(memory)),
                self.processes().line(Limit::Processes, optional(asked.processes), optional(processes)),
                By::full("bytes counted while reading, and SIGKILL beyond the limit").line(
                    Limit::Output,
                    asked.output_bytes.to_string(),
                    asked.output_bytes.to_string(),
                ),
                By::full("RLIMIT_FSIZE").line(Limit::FileSize, optional(asked.file_bytes), file.to_string()),
                self.disk().line(Limit::Disk, optional(asked.disk_bytes), disk.to_string()),
                self.network().line(Limit::Network, "none".to_owned(), "none".to_owned()),
                self.filesystem().line(Limit::Filesystem, "runtimes".to_owned(), "runtimes".to_owned()),
                self.syscalls().line(Limit::Syscalls, "allow-list".to_owned(), "allow-list".to_owned()),
            ],
        }
    }

    fn namespaced(&self) -> bool {
        self.isolation != Isolation::Plain
    }

    /// Whether scripts have user ids that nothing else has.
    fn own_user(&self) -> bool {
        self.shared.users.is_some() && self.isolation != Isolation::UserNamespace
    }

    /// Why there is no such controller. `None`: there is one.
    fn without(&self, controller: Controller) -> Option<String> {
        match &self.shared.cgroups {
            Ok(cgroups) => cgroups.missing(controller).map(str::to_owned),
            Err(why) => Some(why.clone()),
        }
    }

    fn version(&self) -> &'static str {
        match &self.shared.cgroups {
            Ok(cgroups) if cgroups.version() == Version::Two => "cgroup v2",
            _ => "cgroup v1",
        }
    }

    /// How many processes a script's user may have, for a script that may have so many.
    fn user_processes(&self, count: u32) -> u64 {
        let others = match self.isolation {
            // The first process of the sandbox.
            Isolation::UserNamespace => 1,
            _ if self.own_user() => 0,
            _ => processes_of_this_user(),
        };
        u64::from(count) + others
    }

    fn wall_time(&self) -> By {
        if self.namespaced() {
            By::full("SIGKILL to the process namespace at the deadline")
        } else if self.own_user() || self.shared.launcher.capable().landlock >= LANDLOCK_SIGNALS {
            By::full("SIGKILL to all processes of the script at the deadline")
        } else {
            By::partial(
                "SIGKILL to all processes of the script at the deadline",
                format!("a script can end the process that watches it: {}", self.shared.why_plain()),
            )
        }
    }

    fn cpu_time(&self) -> By {
        match self.without(Controller::CpuCount) {
            None => By::full(format!("processor time counted by {}, and SIGKILL beyond the limit", self.version())),
            Some(why) => {
                By::partial("RLIMIT_CPU of each process", format!("nothing counts all processes together: {why}"))
            }
        }
    }

    fn cpu(&self) -> By {
        match self.without(Controller::Cpu) {
            None => By::full(format!("quota of {}", self.version())),
            Some(why) => By::none(why),
        }
    }

    fn memory(&self) -> By {
        match self.without(Controller::Memory) {
            None => {
                let beside = if self.version() == "cgroup v1" {
                    "; buffers of sockets up to a quarter of it beside"
                } else {
                    ""
                };
                let mechanism = format!("memory limit of {}{beside}", self.version());
                match self.shared.cgroups.as_ref().ok().and_then(Cgroups::memory_weakness) {
                    None => By::full(mechanism),
                    Some(why) => By::partial(mechanism, why),
                }
            }
            Some(why) => By::partial(
                "RLIMIT_DATA of each process",
                format!(
                    "nothing counts all processes together, shared memory, files in memory, and the kernel's buffers: {why}"
                ),
            ),
        }
    }

    fn processes(&self) -> By {
        let Some(why) = self.without(Controller::Processes) else {
            return By::full(format!("pids.max of {}", self.version()));
        };
        if self.isolation == Isolation::UserNamespace {
            By::full("RLIMIT_NPROC in a user namespace of its own")
        } else if self.own_user() {
            By::full("RLIMIT_NPROC of a user id of its own")
        } else {
            By::partial("RLIMIT_NPROC", format!("it counts all processes of the node's user: {why}"))
        }
    }

    fn disk(&self) -> By {
        if self.namespaced() {
            By::full("size of a tmpfs of its own")
        } else {
            By::none(format!("the files are in an ordinary folder: {}", self.shared.why_plain()))
        }
    }

    fn network(&self) -> By {
        let filter = self.shared.launcher.capable().no_seccomp.is_empty();
        if self.namespaced() && self.shared.network {
            By::full("network namespace of its own")
        } else if !self.namespaced() && filter {
            By::full("seccomp filter without sockets")
        } else if self.shared.launcher.capable().landlock >= LANDLOCK_TCP && !self.namespaced() {
            By::partial("Landlock", "it stops TCP alone; there is neither a network namespace nor a seccomp filter")
        } else if self.namespaced() {
            By::none(format!("no network namespace could be made: {}", self.shared.no_network))
        } else {
            By::none(self.shared.why_plain())
        }
    }

    fn filesystem(&self) -> By {
        let landlock = self.shared.launcher.capable().landlock;
        if self.namespaced() {
            let mut mechanism = "read-only root in a mount namespace of its own".to_owned();
            if landlock > 0 {
                mechanism.push_str(&format!(", and Landlock {landlock}"));
            }
            By::full(mechanism)
        } else if landlock > 0 {
            By::partial(
                format!("Landlock {landlock}"),
                format!("other processes can be seen in /proc: {}", self.shared.why_plain()),
            )
        } else {
            By::none(format!("{}, and there is no Landlock", self.shared.why_plain()))
        }
    }

    fn syscalls(&self) -> By {
        match self.shared.launcher.capable().no_seccomp.as_str() {
            "" => By::full("seccomp filter"),
            why => By::none(format!("no seccomp filter: {why}")),
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// How many threads the processes of this user have now.
fn processes_of_this_user() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let own = rustix::process::geteuid().as_raw();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let count = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())))
        .filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == own))
        .map(|entry| std::fs::read_dir(entry.path().join("task")).map_or(0, |tasks| tasks.count()))
        .sum::<usize>();
    count as u64
}
