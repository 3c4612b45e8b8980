//! The node's end of the helper: starts it, and has sandboxes made by it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::known::{Known, Mark};
use super::sys;
use super::wire::{self, Capable, Fault, Prepare, Setup};
use crate::sandbox::SandboxError;

/// How long the helper may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The name of the helper as a program of its own.
const SMALL: &str = "sandbox-helper";
/// How long it may take to end once the node has let go of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// How the helper is started.
#[derive(Clone, Debug)]
pub struct HelperCommand {
    /// A program whose `main` begins with [`super::helper::run_if_asked`].
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Default for HelperCommand {
    /// The small program beside this one, if it is there and of the same build; otherwise this program. Sandboxes are copies
    /// of the helper, so a small one makes each of them cost less.
    fn default() -> Self {
        let beside = std::env::current_exe().map(|own| own.with_file_name(SMALL)).ok();
        let small = beside.filter(|program| program.is_file() && is_of_this_build(program));
        let program = small.unwrap_or_else(|| "/proc/self/exe".into());
        HelperCommand { program, arguments: vec![super::helper::ARGUMENT.into()] }
    }
}

/// Whether a program says that it is a helper of the same build as this one.
fn is_of_this_build(program: &Path) -> bool {
    let asked = Command::new(program).arg(super::helper::STAMP_ARGUMENT).env_clear().stdin(Stdio::null()).output();
    let same = asked.is_ok_and(|answer| answer.stdout == super::helper::STAMP.as_bytes());
    if !same {
        tracing::warn!(program = %program.display(), "is of another build; sandboxes are made by this program itself");
    }
    same
}

/// A helper that runs; started again when it has died.
#[derive(Debug)]
pub(super) struct Launcher {
    command: HelperCommand,
    setup: Setup,
    capable: Capable,
    connection: Mutex<Option<Connection>>,
    /// The first processes of all sandboxes.
    firsts: Arc<Known<u32>>,
}

#[derive(Debug)]
struct Connection {
    /// `None`: let go of.
    socket: Option<OwnedFd>,
    child: Child,
}

impl Launcher {
    pub(super) fn start(command: HelperCommand, setup: Setup) -> Result<Launcher, SandboxError> {
        let (connection, capable) = Connection::open(&command, &setup)?;
        Ok(Launcher { command, setup, capable, connection: Mutex::new(Some(connection)), firsts: Arc::default() })
    }

    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }

    pub(super) fn capable(&self) -> &Capable {
        &self.capable
    }

    /// Has a sandbox made, with these descriptors beside the order. Returns the id of its first process, and a handle to it.
    pub(super) fn prepare(
        &self,
        order: &Prepare,
        beside: &[BorrowedFd<'_>],
    ) -> Result<(Mark<u32>, OwnedFd), SandboxError> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for last in [false, true] {
            let connection = match &mut *slot {
                Some(connection) => connection,
                empty => empty.insert(Connection::open(&self.command, &self.setup)?.0),
            };
            match connection.prepare(order, beside) {
                Ok(answer) => {
                    // Before another looks for strays.
                    return answer.map(|(pid, handle)| (self.firsts.mark(pid), handle)).map_err(SandboxError::from);
                }
                // It is well, and so are the scripts that run: the kernel refused this one message.
                Err(source) if !is_gone(&source) => {
                    return Err(SandboxError::Setup { step: "speak with the helper".to_owned(), source });
                }
                // Killed, perhaps for want of memory. Once more, with a new one.
                Err(error) if !last => {
                    tracing::warn!(%error, "the sandbox helper is gone; starting it again");
                    *slot = None;
                }
                Err(source) => {
                    *slot = None;
                    return Err(SandboxError::Setup { step: "speak with the helper".to_owned(), source });
                }
            }
        }
        Err(SandboxError::ShuttingDown)
    }

    /// First processes of sandboxes that nobody has. Where the kernel does not tell of children, none are found.
    pub(super) fn strays(&self) -> Vec<u32> {
        // While this is held none is being made.
        let slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(helper) = slot.as_ref().map(|connection| connection.child.id()) else { return Vec::new() };
        let children = std::fs::read_to_string(format!("/proc/{helper}/task/{helper}/children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.filter(|pid| !self.firsts.has(pid)).collect()
    }
}

impl Connection {
    fn open(command: &HelperCommand, setup: &Setup) -> Result<(Connection, Capable), SandboxError> {
        let failed =
            |source| SandboxError::Io { action: "start the sandbox helper", path: command.program.clone(), source };
        let (socket, theirs) = wire::pair().map_err(failed)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(|error| failed(error.into()))?;
        sys::inherit_nothing();
        let child = Command::new(&command.program)
            .args(&command.arguments)
            .env_clear()
            .current_dir("/")
            // A terminal's signals are for the node alone.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let connection = Connection { socket: Some(socket), child };
        wire::send(connection.socket().map_err(failed)?, setup, &[]).map_err(failed)?;
        let answer = wire::receive::<Result<Capable, Fault>>(connection.socket().map_err(failed)?).map_err(failed)?;
        match answer {
            Some((Ok(capable), _)) => Ok((connection, capable)),
            Some((Err(fault), _)) => Err(fault.into()),
            None => Err(failed(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn socket(&self) -> io::Result<&OwnedFd> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn prepare(&mut self, order: &Prepare, beside: &[BorrowedFd<'_>]) -> io::Result<Result<(u32, OwnedFd), Fault>> {
        let socket = self.socket()?.as_fd();
        wire::send(socket, order, beside)?;
        match wire::receive::<Result<u32, Fault>>(socket)? {
            Some((Ok(pid), mut handles)) => {
                let handle = handles.pop().ok_or_else(|| io::Error::other("an answer without a handle"))?;
                Ok(Ok((pid, handle)))
            }
            Some((Err(fault), _)) => Ok(Err(fault)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Whether an error says that the helper has ended, or hangs.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, NotConnected, TimedOut, UnexpectedEof, WouldBlock};
    let kinds = [BrokenPipe, ConnectionReset, InvalidData, NotConnected, TimedOut, UnexpectedEof, WouldBlock];
    kinds.contains(&error.kind()) || error.raw_os_error().is_none()
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It ends when its socket is closed.
        self.socket = None;
        let since = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl From<Fault> for SandboxError {
    fn from(fault: Fault) -> Self {
        SandboxError::Setup { source: fault.error(), step: fault.step }
    }
}
