//! The helper: this program, started again by the node as a process with one thread, which makes sandboxes by cloning
//! itself. The node has many threads, and a clone of such a process can do little without risk.
//!
//! It first builds the root that all sandboxes share, then waits for orders on its standard input, a socket. Each
//! sandbox gets a first process ([`init`]), which talks to the node over a socket of its own. When the node goes away,
//! so does the helper, and with it every sandbox.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, Signal};

use super::sys::{self, Namespaces, Side};
use super::wire::{self, Capable, Entry, Fault, Isolation, Prepare, Setup, Step};
use confine::Confinement;
use network::Networks;

mod confine;
mod init;
mod landlock;
mod network;
mod place;
mod root;
mod script;
mod seccomp;

/// How long sandboxes may take to end when the node is gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// The argument that makes a program the helper.
pub const ARGUMENT: &str = "sandbox-helper";

/// The argument that makes a program tell its [`STAMP`].
pub(super) const STAMP_ARGUMENT: &str = "sandbox-helper-stamp";
/// The same for programs with the same code of the sandbox.
pub(super) const STAMP: &str = env!("RUNMESH_SANDBOX_STAMP");

/// Turns this process into the helper if its first argument says so, and then does not return. To be called first in the
/// `main` of every program that opens a [`super::ProcessSandbox`], before any thread is started.
pub fn run_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == STAMP_ARGUMENT) {
        rustix::io::write(rustix::stdio::stdout(), STAMP.as_bytes()).ok();
        sys::exit_now(0);
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        let code = match Helper::start() {
            Ok(Some(mut helper)) => {
                let served = helper.serve();
                helper.end();
                served.map_or(1, |()| 0)
            }
            Ok(None) => 0,
            Err(_) => 1,
        };
        sys::exit_now(code);
    }
}

struct Helper {
    setup: Setup,
    confinement: Confinement,
    children: OwnedFd,
    /// The first processes of sandboxes.
    inits: std::collections::HashSet<u32>,
    networks: Networks,
}

fn node() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

impl Helper {
    /// Does what all sandboxes need, and tells the node whether that went well.
    fn start() -> io::Result<Option<Helper>> {
        let Some((setup, _)) = wire::receive::<Setup>(node())? else { return Ok(None) };
        match Helper::set_up(setup) {
            Ok((helper, capable)) => {
                wire::send(node(), &Ok::<_, Fault>(capable), &[])?;
                Ok(Some(helper))
            }
            Err(fault) => {
                wire::send(node(), &Err::<Capable, _>(fault), &[])?;
                Ok(None)
            }
        }
    }

    fn set_up(setup: Setup) -> Result<(Helper, Capable), Fault> {
        let threads = std::fs::read_dir("/proc/self/task").step("count the threads of the helper")?.count();
        if threads != 1 {
            let error = io::Error::from_raw_os_error(libc::EBUSY);
            return Err(Fault::new(format!("the helper has {threads} threads, not one"), &error));
        }
        rustix::thread::set_name(c"sandbox-helper").ok();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let children = sys::child_signals().step("watch the children of the helper")?;
        // Where there is no process namespace, what a script leaves behind comes to the helper.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).step("adopt orphans")?;
        if let Some(user) = setup.become_user {
            script::become_user(user)?;
            // The change took this process's own files in /proc from it; nobody else is this user.
            rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).step("keep its own /proc files")?;
        }
        match setup.isolation {
            Isolation::Privileged => root::enter(&setup, false)?,
            Isolation::UserNamespace => root::enter(&setup, true)?,
            Isolation::Plain => {}
        }
        let confinement = Confinement::new(&setup);
        let capable = confinement.capable();
        let (inits, networks) = Default::default();
        Ok((Helper { setup, confinement, children, inits, networks }, capable))
    }

    /// Until the node goes away.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let readable = {
                let mut watched =
                    [PollFd::from_borrowed_fd(node(), PollFlags::IN), PollFd::new(&self.children, PollFlags::IN)];
                match poll(&mut watched, None) {
                    Ok(_) => watched.map(|one| !one.revents().is_empty()),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(error) => return Err(error.into()),
                }
            };
            if readable[1] {
                self.reap()?;
            }
            if readable[0] {
                let Some((order, descriptors)) = wire::receive::<Prepare>(node())? else { return Ok(()) };
                self.prepare(&order, descriptors)?;
            }
        }
    }

    /// Ends all sandboxes, and leaves no zombie to whoever adopts orphans on this machine.
    fn end(&mut self) {
        // Without namespaces a first process has to end the others itself, which it does when the node is gone.
        let patience = if self.setup.isolation == Isolation::Plain { FAREWELL } else { Duration::ZERO };
        let since = Instant::now();
        while self.reap().is_ok() && !self.inits.is_empty() && since.elapsed() < FAREWELL {
            if since.elapsed() >= patience {
                self.inits.iter().for_each(|pid| init::signal(*pid, Signal::KILL));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        init::drain(&self.children);
        while let Some(reaped) = sys::reap_any()? {
            if self.inits.remove(&reaped.pid) {
                self.networks.given_back(reaped.pid);
            }
        }
        if self.setup.isolation == Isolation::Plain {
            // Whoever else is a child of the helper has lost its sandbox's first process.
            for stray in init::children_of(std::process::id()) {
                if !self.inits.contains(&stray) {
                    init::signal(stray, Signal::KILL);
                }
            }
        }
        Ok(())
    }

    /// Makes a sandbox, and answers with its first process.
    fn prepare(&mut self, order: &Prepare, mut descriptors: Vec<OwnedFd>) -> io::Result<()> {
        if descriptors.is_empty() {
            let fault = Fault { step: "an order without a socket".to_owned(), errno: libc::EBADF };
            return wire::send(node(), &Err::<u32, _>(fault), &[]);
        }
        let ways = descriptors.split_off(1);
        let cgroup = ways.first().filter(|_| order.entry == Entry::Born);
        let namespaced = self.setup.isolation != Isolation::Plain;
        // In a user namespace the network namespace has to be made there too.
        let user = self.setup.isolation == Isolation::UserNamespace;
        let enters = namespaced && order.network && !user;
        let network = match enters.then(|| self.networks.enter()).transpose() {
            Ok(network) => network,
            Err(error) => return wire::send(node(), &Err::<u32, _>(Fault::new("make a network", &error)), &[]),
        };
        let namespaces = Namespaces { system: namespaced, network: user && order.network, user };
        match sys::clone(namespaces, cgroup.map(AsFd::as_fd)) {
            Ok(Side::Parent { pid, handle }) => {
                self.inits.insert(pid);
                if let Some(network) = network {
                    self.networks.taken(pid, network);
                }
                wire::send(node(), &Ok::<_, Fault>(pid), &[handle.as_fd()])
            }
            Ok(Side::Child) => {
                // Those of other sandboxes.
                self.networks = Networks::default();
                // A panic must not unwind into the helper's own loop, which this process has a copy of.
                let work = std::panic::AssertUnwindSafe(|| {
                    init::run(&self.setup, &self.confinement, order, network, descriptors.remove(0), ways);
                });
                std::panic::catch_unwind(work).ok();
                sys::exit_now(0);
            }
            Err(error) => {
                let step = if namespaced { "make namespaces" } else { "start a process" };
                wire::send(node(), &Err::<u32, _>(Fault::new(step, &error)), &[])
            }
        }
    }
}
