//! The first process of a sandbox: sets it up, starts the script, reaps what ends, and ends everything when told, or
//! when the node is gone.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::process::{DumpableBehavior, Pid, Signal};
use rustix::thread::CapabilitySet;

use super::super::peak_rss;
use super::super::sys::{self, Namespaces, Side};
use super::super::wire::{self, Ended, Entry, Fault, Isolation, Notice, Order, Prepare, Script, Setup, Step};
use super::confine::{Applicable, Confinement};
use super::network::Network;
use super::script::Birth;
use super::{place, root, script};
use warm::Warm;

mod warm;

/// How ready the kernel is to end processes of scripts before others when the machine is out of memory: 0 to 1000.
const OOM_SCORE: &str = "900";
/// How long processes without a namespace of their own may go on starting others while they are being killed.
const KILLING: Duration = Duration::from_secs(2);

struct Init<'a> {
    isolation: Isolation,
    user: u32,
    network: bool,
    confinement: &'a Confinement,
    /// What every script here is confined by. `None`: that depends on its folder.
    confined: Option<Applicable<'a>>,
    control: OwnedFd,
    children: OwnedFd,
    /// The network namespace, where the helper made it, and what tells when a socket is asked for there.
    internet: Option<Network>,
    asked: Option<OwnedFd>,
    main: Option<u32>,
    /// An interpreter that waits for its script.
    warm: Option<Warm>,
    /// Processor time that it had used before.
    warm_cpu: Duration,
    terminated: bool,
    killed: bool,
    /// Processor time of everything reaped so far, and the greatest resident set among it.
    cpu_user: Duration,
    cpu_system: Duration,
    peak_rss_bytes: u64,
    /// That of this process itself, of which each child begins as a copy.
    base_rss_bytes: u64,
}

/// Is the first process, until its sandbox is to end.
pub(super) fn run(
    setup: &Setup,
    confinement: &Confinement,
    order: &Prepare,
    internet: Option<Network>,
    control: OwnedFd,
    cgroup: Vec<OwnedFd>,
) {
    let children = match enter(order, cgroup).and_then(|()| set_up(setup)) {
        Ok(children) => children,
        Err(fault) => {
            wire::send(&control, &Notice::Failed(fault), &[]).ok();
            return;
        }
    };
    let mut init = Init {
        isolation: setup.isolation,
        user: order.user,
        network: order.network,
        confinement,
        confined: None,
        control,
        children,
        internet,
        asked: None,
        main: None,
        warm: None,
        warm_cpu: Duration::ZERO,
        terminated: false,
        killed: false,
        cpu_user: Duration::ZERO,
        cpu_system: Duration::ZERO,
        peak_rss_bytes: 0,
        base_rss_bytes: peak_rss("self").unwrap_or(0),
    };
    match init.isolate(order).and_then(|made| init.get_ready().map(|()| made)) {
        Ok((no_proc, folders)) => {
            init.asked = init.internet.as_ref().and_then(Network::watch);
            // Its own files in /proc were needed up to here. Nobody of the same user gets to its memory and descriptors.
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
            let folders: Vec<_> = folders.iter().map(|folder| folder.as_fd()).collect();
            if wire::send(&init.control, &Notice::Ready { no_proc }, &folders).is_ok() {
                // Nobody is left to tell of an error.
                init.serve().ok();
            }
        }
        Err(fault) => {
            wire::send(&init.control, &Notice::Failed(fault), &[]).ok();
        }
    }
    init.kill();
}

/// Enters its cgroup, if it was not started there.
fn enter(order: &Prepare, cgroup: Vec<OwnedFd>) -> Result<(), Fault> {
    let tasks = if order.entry == Entry::Joins { cgroup } else { Vec::new() };
    tasks.iter().try_for_each(|file| rustix::io::write(file, b"0").map(drop).step("enter its cgroup"))
}

/// Lets go of what is the helper's.
fn set_up(setup: &Setup) -> Result<OwnedFd, Fault> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("die with the helper")?;
    rustix::thread::set_name(c"sandbox-init").ok();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).step("let go of the helper's socket")?;
    // A script may find a way to what this process has open.
    rustix::stdio::dup2_stdout(&null).step("let go of the node's output")?;
    rustix::stdio::dup2_stderr(&null).step("let go of the node's output")?;
    if setup.isolation == Isolation::Plain {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).step("adopt orphans")?;
    }
    // Before this process has a /proc of its own, which is read-only.
    fs::write("/proc/self/oom_score_adj", OOM_SCORE).ok();
    sys::child_signals().step("watch the script")
}

impl Init<'_> {
    /// Makes what the sandbox has of its own. Returns why there is no /proc, if there is none, and the folders for the
    /// script's files.
    fn isolate(&self, order: &Prepare) -> Result<(String, Vec<OwnedFd>), Fault> {
        if self.isolation == Isolation::Plain {
            return Ok((String::new(), Vec::new()));
        }
        if self.isolation == Isolation::UserNamespace {
            root::map_ids(root::INNER_USER, root::INNER_USER)?;
        }
        rustix::system::sethostname(b"sandbox").step("name the sandbox")?;
        let user = self.script_user().unwrap_or(root::INNER_USER);
        let options =
            format!("mode=0755,size={},nr_inodes={},uid={user},gid={user}", order.disk_bytes, order.disk_files);
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", root::TEMPORARY, "tmpfs", flags, Some(&*std::ffi::CString::new(options).unwrap_or_default()))
            .step("mount a file system for the script")?;
        let mut folders = Vec::new();
        for (name, place) in [("work", root::WORK), ("shm", root::SHARED_MEMORY), ("tmp", root::TEMPORARY)] {
            let from = format!("{}/{name}", root::TEMPORARY);
            let step = || format!("make {place}");
            fs::create_dir(&from).step(step())?;
            rustix::fs::chown(&*from, Some(rustix::fs::Uid::from_raw(user)), Some(rustix::fs::Gid::from_raw(user)))
                .step(step())?;
            rustix::fs::chmod(&*from, Mode::RWXU).step(step())?;
            mount_bind(&*from, place).step(step())?;
            if place == root::WORK {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                folders.push(rustix::fs::open(place, flags, Mode::empty()).step(step())?);
            }
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        let no_proc = match mount("proc", "/proc", "proc", flags, None) {
            Ok(()) => String::new(),
            // Where parts of /proc are hidden, as in a container, a new one may not show them. An empty folder then.
            Err(error) => {
                mount("tmpfs", "/proc", "tmpfs", flags, c"size=4k,nr_inodes=2").step("hide /proc")?;
                error.to_string()
            }
        };
        if order.network && self.internet.is_none() {
            sys::loopback_up().step("bring the loopback interface up")?;
        }
        Ok((no_proc, folders))
    }

    /// Does for the script what does not need it.
    fn get_ready(&mut self) -> Result<(), Fault> {
        script::drop_bounds();
        if self.isolation != Isolation::Plain {
            self.confined = Some(self.confinement.prepare(None, self.network)?);
        }
        Ok(())
    }

    /// The user that the script becomes. `None`: it stays what it is.
    fn script_user(&self) -> Option<u32> {
        let own = rustix::process::geteuid().as_raw();
        (self.isolation != Isolation::UserNamespace && own == 0 && self.user != own).then_some(self.user)
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let readable = {
                let asked = self.asked.as_ref().unwrap_or(&self.control);
                let watched = [&self.control, &self.children, asked];
                let mut watched = watched.map(|one| PollFd::new(one, PollFlags::IN));
                match poll(&mut watched, None) {
                    Ok(_) => watched.map(|one| !one.revents().is_empty()),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            if let (Some(internet), Some(asked), true) = (&self.internet, &self.asked, readable[2]) {
                internet.let_go_on(asked.as_fd());
            }
            // First what has ended, so that an order that comes too late is known to.
            drain(&self.children);
            self.reap()?;
            if !readable[0] {
                continue;
            }
            match wire::receive::<Order>(&self.control)? {
                None => return Ok(()),
                Some((Order::Run(script), descriptors)) => self.start(&script, &descriptors)?,
                Some((Order::Warm(script), descriptors)) => self.warm(*script, descriptors)?,
                Some((Order::Wake { script, has_input }, _)) => self.wake(&script, has_input)?,
                Some((Order::Discard, _)) => self.discard()?,
                Some((Order::Terminate, _)) => self.terminate(),
                Some((Order::Kill, _)) => {
                    self.killed |= self.main.is_some();
                    self.kill();
                    self.reap()?;
                }
            }
        }
    }

    fn start(&mut self, script: &Script, descriptors: &[OwnedFd]) -> io::Result<()> {
        let notice = match self.launch(script, descriptors) {
            Ok(()) => Notice::Started,
            Err(fault) => Notice::NotStarted(fault),
        };
        wire::send(&self.control, &notice, &[])
    }

    /// Makes the file system for the script as it is to be, and puts the script's files there.
    fn furnish(&self, script: &Script) -> Result<(), Fault> {
        if let Some(bytes) = script.disk_bytes.filter(|_| self.isolation != Isolation::Plain) {
            let size = std::ffi::CString::new(format!("size={bytes}")).unwrap_or_default();
            mount_remount(root::TEMPORARY, MountFlags::NOSUID | MountFlags::NODEV, &*size)
                .step("resize the file system for the script")?;
        }
        place::place(&self.control, script, self.script_user())
    }

    /// Keeps what is enough to become the script's user and to end it.
    fn drop_privileges(&self) -> Result<(), Fault> {
        let kept = match self.script_user() {
            Some(_) => CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL,
            None => CapabilitySet::empty(),
        };
        script::drop_capabilities(kept)
    }

    fn launch(&mut self, script: &Script, descriptors: &[OwnedFd]) -> Result<(), Fault> {
        self.furnish(script)?;
        self.drop_privileges()?;
        let confinement = match &self.confined {
            Some(confined) => confined,
            None => &self.confinement.prepare(script.directory.parent(), self.network)?,
        };
        let user = self.script_user();
        let birth = Birth { script, streams: descriptors, kept: &[], user, confinement, control: &self.control };
        let (pid, loaded) = bear(&birth)?;
        self.main = loaded.is_ok().then_some(pid);
        loaded
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some(reaped) = sys::reap_any()? {
            if self.warm.as_ref().is_some_and(|warm| warm.pid == reaped.pid) {
                // It was no script's.
                self.warm = None;
                continue;
            }
            self.cpu_user += reaped.cpu_user;
            self.cpu_system += reaped.cpu_system;
            self.peak_rss_bytes = self.peak_rss_bytes.max(reaped.peak_rss_bytes);
            if self.main == Some(reaped.pid) {
                self.main = None;
                let (cpu_user, cpu_system) = warm::without(self.warm_cpu, self.cpu_user, self.cpu_system);
                let ended = Ended {
                    code: reaped.code,
                    signal: reaped.signal,
                    cpu_user,
                    cpu_system,
                    peak_rss_bytes: self.peak_rss_bytes,
                    base_rss_bytes: self.base_rss_bytes,
                    terminated: self.terminated,
                    killed: self.killed,
                };
                wire::send(&self.control, &Notice::Ended(ended), &[])?;
            }
        }
        Ok(())
    }

    /// SIGTERM to the script's group, and to the main process if that left its group. Wakes what is stopped, so that it
    /// sees it.
    fn terminate(&mut self) {
        let Some(main) = self.main.and_then(pid_of) else { return };
        self.terminated = true;
        for signal in [Signal::TERM, Signal::CONT] {
            rustix::process::kill_process_group(main, signal).ok();
            if rustix::process::getpgid(Some(main)).is_ok_and(|group| group != main) {
                rustix::process::kill_process(main, signal).ok();
            }
        }
    }

    /// SIGKILL to everything in the sandbox but this process.
    fn kill(&self) {
        if self.isolation != Isolation::Plain {
            // This is the first process of a namespace: all others in it are the script's.
            return sys::kill_all();
        }
        if let Some(user) = self.script_user() {
            // All processes of that user are the script's; at once, so that none escapes by being started meanwhile.
            if let Ok(Side::Child) = sys::clone(Namespaces::default(), None) {
                if script::become_user(user).is_ok() {
                    sys::kill_all();
                }
                sys::exit_now(0);
            }
        }
        let since = Instant::now();
        while since.elapsed() < KILLING {
            let own = std::process::id();
            let mut living = Vec::new();
            descendants(own, &mut living);
            if living.is_empty() {
                return;
            }
            for pid in living {
                signal(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Starts a process that becomes a script. Returns its id, and why its program could not be loaded, if it could not.
fn bear(birth: &Birth<'_>) -> Result<(u32, Result<(), Fault>), Fault> {
    let texts = script::Texts::of(birth.script)?;
    let mut loaded = Ok(());
    let pid = sys::clone_sharing(&mut || loaded = Err(script::become_script(birth, &texts)));
    Ok((pid.step("start a process")?, loaded))
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// Sends a signal; a process that has ended meanwhile is fine.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        rustix::process::kill_process(pid, signal).ok();
    }
}

/// Takes what a signal descriptor has.
pub(super) fn drain(signals: &OwnedFd) {
    let mut buffer = [0_u8; 1024];
    while rustix::io::read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// The children of a process, zombies included.
pub(super) fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// All processes below one that live.
fn descendants(of: u32, found: &mut Vec<u32>) {
    for child in children_of(of) {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if !matches!(state, Some('Z' | 'X') | None) {
            found.push(child);
        }
        if found.len() < 65_536 {
            descendants(child, found);
        }
    }
}
