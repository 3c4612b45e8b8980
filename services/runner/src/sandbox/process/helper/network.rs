//! Network namespaces of sandboxes. To make one and to remove it takes the kernel more time than all the rest of a sandbox,
//! and few scripts ask for a socket. One in which nobody ever did is as it was made, so the next sandbox gets it.
//!
//! The evidence: a filter has each call that asks for a socket wait until it is marked, unless it is for a local one. All that
//! a local one leaves is itself, so there must be none left. Everything else that could change a network namespace takes a
//! privilege or a kind of socket that scripts do not have.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::super::sys;
use super::seccomp;

/// How many that were not used are kept.
const KEPT: usize = 16;
/// The one that this process is in.
const OWN: &str = "/proc/self/ns/net";
/// The local sockets in it, below a line of titles.
const LOCAL_SOCKETS: &str = "/proc/self/net/unix";

/// The network namespaces that the helper knows.
#[derive(Default)]
pub(super) struct Networks {
    spare: Vec<OwnedFd>,
    /// Those of sandboxes, by the ids of their first processes.
    taken: HashMap<u32, Network>,
}

/// The network namespace of a sandbox.
pub(super) struct Network {
    namespace: OwnedFd,
    /// Counts the sockets that were asked for.
    used: OwnedFd,
}

impl Networks {
    /// Moves this process into one that is as it was made, with its loopback interface up.
    pub(super) fn enter(&mut self) -> io::Result<Network> {
        let used = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        while let Some(namespace) = self.spare.pop() {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            if has_no_sockets() {
                return Ok(Network { namespace, used });
            }
        }
        sys::unshare(UnshareFlags::NEWNET)?;
        sys::loopback_up()?;
        Ok(Network { namespace: fs::File::open(OWN)?.into(), used })
    }

    /// A sandbox with this first process has it.
    pub(super) fn taken(&mut self, pid: u32, network: Network) {
        self.taken.insert(pid, network);
    }

    /// A first process has ended, and with it everything in its sandbox.
    pub(super) fn given_back(&mut self, pid: u32) {
        let Some(network) = self.taken.remove(&pid) else { return };
        if network.is_untouched() && self.spare.len() < KEPT {
            self.spare.push(network.namespace);
        }
    }
}

impl Network {
    fn is_untouched(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.used, &mut count) == Err(rustix::io::Errno::AGAIN)
    }

    /// In a sandbox: what tells when a socket is asked for there. `None`: nothing does, and it counts as asked for.
    pub(super) fn watch(&self) -> Option<OwnedFd> {
        // A kernel that is older may have no way to let a call go on (5.5); those with Landlock do (5.13).
        let told = if sys::landlock_version() > 0 { seccomp::tell_of_sockets().ok() } else { None };
        if told.is_none() {
            self.mark();
        }
        told
    }

    fn mark(&self) {
        rustix::io::write(&self.used, &1_u64.to_ne_bytes()).ok();
    }

    /// In a sandbox: marks it as used, and lets whoever asked for a socket go on.
    pub(super) fn let_go_on(&self, listener: BorrowedFd<'_>) {
        // It may have been killed meanwhile.
        sys::let_go_on(listener, || self.mark()).ok();
    }
}

fn has_no_sockets() -> bool {
    fs::read_to_string(LOCAL_SOCKETS).is_ok_and(|text| text.lines().count() == 1)
}
