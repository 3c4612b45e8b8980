//! A sandbox that is set up and waits for its script.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_passcred, set_socket_timeout};
use rustix::process::Signal;

use super::Shared;
use super::cgroup::{Cgroup, CgroupLimits};
use super::known::Mark;
use super::users::User;
use super::warm::Warmed;
use super::wire::{self, Beside, Entry, Isolation, Notice, Prepare};
use crate::sandbox::SandboxError;

/// How long a sandbox may take to be set up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the end of everything in a sandbox may take.
const ENDING: Duration = Duration::from_secs(5);

/// A sandbox. What is in it ends when it is dropped, and what was made for it is removed.
#[derive(Debug)]
pub(super) struct Prepared {
    // Dropped in this order: everything ends before its cgroup and its user id are given up.
    pub(super) first: FirstProcess,
    pub(super) cgroup: Option<Cgroup>,
    /// The working folder, where the sandbox has made it.
    pub(super) work: Option<OwnedFd>,
    pub(super) user: User,
    /// An interpreter that waits in it.
    pub(super) warmed: Option<Warmed>,
    /// Why there is no /proc of its own. Empty: there is.
    pub(super) no_proc: String,
}

/// The first process of a sandbox, with which everything in it ends.
#[derive(Debug)]
pub(super) struct FirstProcess {
    pid: Mark<u32>,
    handle: OwnedFd,
    /// `None`: let go of.
    control: Option<OwnedFd>,
    isolation: Isolation,
    ended: bool,
}

impl Prepared {
    /// Has one made. Blocks for some ms.
    pub(super) fn make(shared: &Shared) -> Result<Prepared, SandboxError> {
        let failed = |step: &str| {
            let step = step.to_owned();
            move |source| SandboxError::Setup { step, source }
        };
        if shared.closed.load(Ordering::Acquire) {
            return Err(SandboxError::ShuttingDown);
        }
        let isolation = shared.launcher.setup().isolation;
        let user = match &shared.users {
            Some(users) => {
                users.take().ok_or_else(|| failed("find a free user id")(io::ErrorKind::QuotaExceeded.into()))?
            }
            None => User::shared(rustix::process::geteuid().as_raw()),
        };
        let cgroup = match &shared.cgroups {
            Ok(cgroups) => Some(cgroups.create(&shared.next_name()).map_err(failed("make a cgroup"))?),
            Err(_) => None,
        };
        // Perhaps that way is closed: then it is moved.
        let (entry, ways) =
            cgroup.as_ref().and_then(|cgroup| cgroup.entrance().ok()).unwrap_or((Entry::None, Vec::new()));
        let (control, theirs) = wire::pair().map_err(failed("make a socket"))?;
        set_socket_timeout(&control, Timeout::Recv, Some(PATIENCE))
            .and_then(|()| set_socket_passcred(&control, true))
            .map_err(|error| failed("make a socket")(error.into()))?;
        let order = |entry| Prepare {
            entry,
            user: user.id,
            network: shared.network,
            disk_bytes: shared.config.disk_bytes,
            disk_files: shared.config.disk_files,
        };
        let prepare = |entry, ways: &[OwnedFd]| {
            let beside: Vec<_> = [&theirs].into_iter().chain(ways).map(AsFd::as_fd).collect();
            shared.launcher.prepare(&order(entry), &beside)
        };
        let (made, entered) = match prepare(entry, &ways) {
            // Perhaps the helper may not start processes there: it has another user, or a filter knows no clone3.
            Err(SandboxError::Setup { .. }) if entry == Entry::Born => (prepare(Entry::None, &[]), false),
            made => (made, entry != Entry::None),
        };
        let (pid, handle) = made?;
        drop((theirs, ways));
        let id = pid.value;
        let first = FirstProcess { pid, handle, control: Some(control), isolation, ended: false };
        let mut prepared = Prepared { first, cgroup, work: None, user, warmed: None, no_proc: String::new() };
        if let Some(cgroup) = prepared.cgroup.as_ref().filter(|_| !entered) {
            cgroup.add(id).map_err(failed("move the sandbox into its cgroup"))?;
        }
        match prepared.first.receive()? {
            (Notice::Ready { no_proc }, mut beside) => {
                prepared.no_proc = no_proc;
                prepared.work = beside.descriptors.pop();
                Ok(prepared)
            }
            (Notice::Failed(fault), _) => Err(fault.into()),
            (other, _) => Err(failed("set a sandbox up")(io::Error::other(format!("{other:?} came instead")))),
        }
    }

    /// Gives it these limits, where it has a cgroup.
    pub(super) fn limit(&mut self, limits: &CgroupLimits) -> Result<(), SandboxError> {
        let failed = |source| SandboxError::Setup { step: "limit the cgroup".to_owned(), source };
        self.cgroup.as_mut().map_or(Ok(()), |cgroup| cgroup.limit(limits).map_err(failed))
    }
}

#[cfg(feature = "conformance")]
impl Prepared {
    /// Forgets it, but not that it has its cgroup and its user.
    pub(super) fn lose(self) -> u32 {
        let lost = std::mem::ManuallyDrop::new(self);
        lost.first.pid.lose()
    }
}

impl FirstProcess {
    pub(super) fn control(&self) -> io::Result<&OwnedFd> {
        self.control.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// A handle to it, readable once it has ended.
    pub(super) fn exit_handle(&self) -> io::Result<OwnedFd> {
        self.handle.try_clone()
    }

    /// The next notice, blocking.
    pub(super) fn receive(&self) -> Result<(Notice, Beside), SandboxError> {
        let failed = |source| SandboxError::Setup { step: "hear from the sandbox".to_owned(), source };
        match wire::receive_with(self.control().map_err(failed)?) {
            Ok(Some(received)) => Ok(received),
            Ok(None) => Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Kills it, without waiting. Only in namespaces of its own does that end everything in its sandbox.
    pub(super) fn kill(&self) {
        rustix::process::pidfd_send_signal(&self.handle, Signal::KILL).ok();
    }

    /// Ends it, and with it everything in its sandbox. Blocks until that is so.
    pub(super) fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        // Without a namespace of its own it has to kill the others itself, which it does when the node lets go of it.
        if let Some(control) = self.control.take() {
            // Others may have copies of it.
            rustix::net::shutdown(&control, rustix::net::Shutdown::Both).ok();
        }
        if self.isolation == Isolation::Plain && self.wait(ENDING) {
            return;
        }
        self.kill();
        if !self.wait(ENDING) {
            tracing::warn!(pid = self.pid.value, "the processes of a sandbox did not end in time");
        }
    }

    fn wait(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let mut watched = [PollFd::new(&self.handle, PollFlags::IN)];
            let left = until.saturating_duration_since(Instant::now());
            match poll(&mut watched, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl Drop for FirstProcess {
    fn drop(&mut self) {
        self.end();
    }
}
