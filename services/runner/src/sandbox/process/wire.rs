//! What the node, the helper and the first process of a sandbox tell each other: JSON behind its length, over stream
//! sockets, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The greatest message, in bytes.
const LARGEST: usize = 64 << 20;
/// The greatest number of descriptors beside a message.
const MOST_DESCRIPTORS: usize = 6;

/// With what the helper isolates scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Isolation {
    /// Namespaces made with this machine's own privileges; each script has a user id of its own.
    Privileged,
    /// Namespaces inside a user namespace.
    UserNamespace,
    /// No namespaces.
    Plain,
}

/// Node to helper, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) isolation: Isolation,
    /// What scripts may read and run, beside the system's own folders.
    pub(super) readable: Vec<PathBuf>,
    /// A folder to build the root on; what is in it is not touched.
    pub(super) staging: PathBuf,
    /// The user id to become first. `None`: stay.
    pub(super) become_user: Option<u32>,
    pub(super) landlock: bool,
    pub(super) seccomp: bool,
}

/// Helper to node, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Capable {
    /// The version of Landlock's interface. 0: there is none, or it was not wanted.
    pub(super) landlock: i32,
    /// Why there is no system-call filter. Empty: there is one.
    pub(super) no_seccomp: String,
}

/// Node to helper, with the sandbox's end of its control socket and then the descriptors of [`Entry`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Prepare {
    pub(super) entry: Entry,
    /// The user and group id of the script, as the helper sees it.
    pub(super) user: u32,
    pub(super) network: bool,
    pub(super) disk_bytes: u64,
    pub(super) disk_files: u64,
}

/// How the first process gets into its cgroup. To be moved there by another takes some ms after a quiet time: the kernel
/// waits for all processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry {
    /// Not by itself.
    None,
    /// It is started there: the folder, of version 2, is beside the order.
    Born,
    /// It joins with its one thread: the files `tasks` of version 1 are beside the order. Who opened them decides whether
    /// it may.
    Joins,
}

/// Something failed on the other side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    pub(super) step: String,
    pub(super) errno: i32,
}

/// Node to the first process of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Run this, with these descriptors as standard input, output and error.
    Run(Box<Script>),
    /// Start this interpreter, with these descriptors, the fourth of which is its standard input later if it then gets
    /// any, and have it wait for its script.
    Warm(Box<Script>),
    /// Run this in the interpreter that waits.
    Wake {
        script: Box<Script>,
        /// Whether its standard input is no longer /dev/null.
        has_input: bool,
    },
    /// End the interpreter that waits.
    Discard,
    /// SIGTERM to the script.
    Terminate,
    /// SIGKILL to everything in the sandbox.
    Kill,
}

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Script {
    pub(super) command: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) directory: PathBuf,
    /// Placed in `directory` first. Their bytes follow the order, one after the other.
    pub(super) files: Vec<Placed>,
    /// The size of the file system for the script's files, if it differs from what was prepared.
    pub(super) disk_bytes: Option<u64>,
    pub(super) limits: ProcessLimits,
}

/// A file of a script.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Placed {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) executable: bool,
}

/// The limits of each process, set by setrlimit. `None`: unlimited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProcessLimits {
    pub(super) cpu: Option<Duration>,
    pub(super) file_bytes: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) data_bytes: Option<u64>,
    pub(super) open_files: u64,
}

/// The first process of a sandbox to the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Notice {
    /// It is prepared; beside it the working folder and the folder for temporary files, if it has made them. Says why
    /// the sandbox has no /proc of its own, if it has none.
    Ready { no_proc: String },
    /// It could not be prepared.
    Failed(Fault),
    /// From the process that becomes the script's main process.
    Here,
    /// The script's program has been loaded.
    Started,
    /// It could not be started.
    NotStarted(Fault),
    /// An interpreter waits for its script.
    Waiting,
    /// The interpreter that waited did not become its script. Nothing of the script has run.
    NotWoken(Fault),
    /// No interpreter waits any more.
    Discarded,
    /// The main process has ended.
    Ended(Ended),
}

/// How the main process ended, and what was used so far.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) cpu_user: Duration,
    pub(super) cpu_system: Duration,
    pub(super) peak_rss_bytes: u64,
    /// That of the sandbox's first process, of which every other began as a copy.
    pub(super) base_rss_bytes: u64,
    /// Whether it was told to end before it did.
    pub(super) terminated: bool,
    /// Whether there was an order to kill it before it ended.
    pub(super) killed: bool,
}

impl Fault {
    pub(super) fn new(step: impl Into<String>, error: &io::Error) -> Fault {
        Fault { step: step.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    pub(super) fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

/// Names the step that failed.
pub(super) trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, Fault> {
        self.map_err(|error| Fault::new(step, &error.into()))
    }
}

/// Two connected sockets, closed when a program is loaded.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message, blocking.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let mut sent = 0;
    while sent < bytes.len() {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes[sent..])], &mut beside, SendFlags::NOSIGNAL) {
            Ok(count) => {
                sent += count;
                beside.clear();
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sends bytes that follow a message, blocking.
pub(super) fn send_bytes(socket: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives bytes that follow a message, blocking.
pub(super) fn receive_bytes(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<()> {
    if buffer.is_empty() || fill(socket, buffer, &mut Beside::default())? {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// What comes beside a message.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) descriptors: Vec<OwnedFd>,
    /// The sender as this process sees it, where the socket was asked to tell.
    pub(super) sender: Option<u32>,
}

/// Receives a message, blocking. `None`: the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    Ok(receive_with(socket)?.map(|(message, beside)| (message, beside.descriptors)))
}

/// The same, with all that comes beside it.
pub(super) fn receive_with<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Beside)>> {
    let mut beside = Beside::default();
    let mut head = [0; 4];
    if !fill(&socket, &mut head, &mut beside)? {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_le_bytes(head)).map_err(io::Error::other)?;
    if length > LARGEST {
        return Err(io::Error::other("a message is too large"));
    }
    let mut body = vec![0; length];
    if !fill(&socket, &mut body, &mut beside)? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((serde_json::from_slice(&body)?, beside)))
}

/// Fills the buffer. `false`: the other end was closed before the first byte.
fn fill(socket: impl AsFd, buffer: &mut [u8], found: &mut Beside) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS), ScmCredentials(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer[filled..])];
        match rustix::net::recvmsg(&socket, &mut slices, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => {
                for message in beside.drain() {
                    match message {
                        RecvAncillaryMessage::ScmRights(rights) => found.descriptors.extend(rights),
                        RecvAncillaryMessage::ScmCredentials(who) => {
                            found.sender = Some(who.pid.as_raw_nonzero().get().unsigned_abs());
                        }
                        _ => {}
                    }
                }
                match received.bytes {
                    0 if filled == 0 => return Ok(false),
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => filled += count,
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
