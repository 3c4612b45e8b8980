//! What no safe wrapper in use here offers. All `unsafe` of the crate is in this file.
#![allow(unsafe_code, reason = "rustix and the standard library lack these calls")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::thread::UnshareFlags;
use seccompiler::sock_filter;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What `wait4` says of a process that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    pub(super) pid: u32,
    /// The exit code, if it exited.
    pub(super) code: Option<i32>,
    /// The signal, if one ended it.
    pub(super) signal: Option<i32>,
    pub(super) cpu_user: Duration,
    pub(super) cpu_system: Duration,
    /// The greatest resident set of the process or of one that it waited for, in bytes.
    pub(super) peak_rss_bytes: u64,
}

/// Which side of a clone this is.
pub(super) enum Side {
    /// The one that called.
    Parent {
        /// The child's id as this process sees it.
        pid: u32,
        /// A handle to it.
        handle: OwnedFd,
    },
    /// The new process.
    Child,
}

/// What is at most made anew for a process, beside the process itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Namespaces {
    /// Mount, pid, ipc, uts and cgroup namespaces.
    pub(super) system: bool,
    /// A network namespace.
    pub(super) network: bool,
    /// A user namespace.
    pub(super) user: bool,
}

/// Makes a copy of this process, which must have one thread only, in new namespaces and in a cgroup (v2) if one is given.
pub(super) fn clone(namespaces: Namespaces, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut flags = libc::CLONE_PIDFD;
    if namespaces.system {
        flags |= libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        flags |= libc::CLONE_NEWCGROUP;
    }
    if namespaces.network {
        flags |= libc::CLONE_NEWNET;
    }
    if namespaces.user {
        flags |= libc::CLONE_NEWUSER;
    }
    let flags = u64::from(flags.unsigned_abs());
    let mut handle: libc::c_int = -1;
    let pid = if let Some(cgroup) = cgroup {
        // SAFETY: clone_args is a struct of integers, for which zero is a valid value.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = flags | 0x2_0000_0000; // CLONE_INTO_CGROUP
        arguments.pidfd = (&raw mut handle) as u64;
        arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        // SAFETY: as below; the kernel reads the struct and writes the handle, both live locals.
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) }
    } else {
        let flags = flags | u64::from(libc::SIGCHLD.unsigned_abs());
        // SAFETY: without CLONE_VM and with no stack the child goes on with a copy of this process's memory, as after a
        // fork. This process has one thread, so no lock is held by a thread that the child doesn't have. The third
        // argument takes the handle for CLONE_PIDFD and is a live local.
        unsafe { libc::syscall(libc::SYS_clone, flags, 0_u64, &raw mut handle, 0_u64, 0_u64) }
    };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for this process; nobody else owns it.
            let handle = unsafe { OwnedFd::from_raw_fd(handle) };
            Ok(Side::Parent { pid: u32::try_from(pid).map_err(io::Error::other)?, handle })
        }
    }
}

/// The stack of a process that shares memory until it loads its program.
const STACK: usize = 256 << 10;

/// Has a new process do `work`, which shares this one's memory until it has loaded its program or ended; so nothing is
/// copied. This process, which must have one thread only, waits until then. Where `work` returns, the new process ends.
/// What `work` drops is gone here too, but for descriptors, of which each has its own. Returns the new process's id.
pub(super) fn clone_sharing(mut work: &mut dyn FnMut()) -> io::Result<u32> {
    extern "C" fn enter(work: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the pointer that was given to `clone` below, to a local of the caller, which waits.
        let work = unsafe { &mut *work.cast::<&mut dyn FnMut()>() };
        work();
        exit_now(127)
    }
    let mut stack = Vec::<u128>::with_capacity(STACK / size_of::<u128>());
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack grows down from its end, which is aligned to 16 bytes, and belongs to the new process alone. The
    // kernel resumes this process only when the other has left its memory, so both pointers are to what lives, nothing
    // is used by both at a time, and there is no other thread that could.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        libc::clone(enter, top.cast(), flags, (&raw mut work).cast())
    };
    if pid < 0 { Err(io::Error::last_os_error()) } else { u32::try_from(pid).map_err(io::Error::other) }
}

/// Loads a program into this process, with these arguments, the first of which names it, and this environment. Returns only
/// if that can't be done, and why.
pub(super) fn execute(arguments: &[CString], environment: &[CString]) -> io::Error {
    let ends = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (ends(arguments), ends(environment));
    let Some(program) = arguments.first() else { return io::ErrorKind::NotFound.into() };
    // SAFETY: all are NUL-terminated texts that live until the call returns, in lists that end with a null pointer.
    unsafe { libc::execvpe(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Has this filter say of each system call of this thread, and of what it starts, whether it is told of. Returns where.
pub(super) fn seccomp_listener(filter: &[sock_filter]) -> io::Result<OwnedFd> {
    let length = libc::c_ushort::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut().cast() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the kernel reads the program, whose instructions have the kernel's own layout, and changes nothing of it.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for this process; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the next system call that is told of, and lets it go on, once `before` has been done. Blocks if there is none.
pub(super) fn let_go_on(listener: BorrowedFd<'_>, before: impl FnOnce()) -> io::Result<()> {
    // SAFETY: both structs are integers, for which zero is a valid value.
    let (mut call, mut answer) =
        unsafe { (std::mem::zeroed::<libc::seccomp_notif>(), std::mem::zeroed::<libc::seccomp_notif_resp>()) };
    // SAFETY: the kernel writes the struct, a live local of the type that belongs to this number.
    if unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } != 0 {
        return Err(io::Error::last_os_error());
    }
    before();
    answer.id = call.id;
    answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    // SAFETY: as above; the kernel reads the struct.
    let answered = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
    if answered == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves this process, which must have one thread only, into new namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the descriptor table is not unshared, and there is no other thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Reaps any child that has ended. `None`: none has.
pub(super) fn reap_any() -> io::Result<Option<Reaped>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to live, writable locals of the types that wait4 fills in.
        let got = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG | libc::__WALL, usage.as_mut_ptr()) };
        if got == 0 {
            return Ok(None);
        }
        if got > 0 {
            // SAFETY: every bit pattern is a valid rusage (integers only), it was zeroed, and wait4 succeeded.
            let usage = unsafe { usage.assume_init() };
            return Ok(Some(Reaped {
                pid: got.unsigned_abs(),
                code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
                signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
                cpu_user: duration(usage.ru_utime),
                cpu_system: duration(usage.ru_stime),
                peak_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
            }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // There is no child at all.
            Some(libc::ECHILD) => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// SIGKILL to every process that this one may signal and sees, but for itself and the first one of its namespace. Only
/// for a process in a process namespace of its own, or with a user id of its own.
pub(super) fn kill_all() {
    // SAFETY: sends a signal; no memory is involved.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

/// A descriptor that becomes readable when a child ends. SIGCHLD is blocked from now on.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is a live local, which sigemptyset initialises before the others read it.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Blocks and ignores no signal any more, as a program expects it at its start. Whoever started the node may have had it
/// ignore some, which is inherited.
pub(super) fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default is no function of this program's. Those that can't be changed are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is a live local, which sigemptyset initialises before the other reads it.
    let done = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets attributes of a mount and of all mounts below it. Attributes are only added.
pub(super) fn set_mount_attributes(path: &Path, attributes: u64) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let wanted = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_RECURSIVE | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: the path is a NUL-terminated string and the struct a live local; the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the loopback interface of this network namespace up.
pub(super) fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is integers and a union of such, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a NUL-terminated name; it is a live local.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The version of Landlock's interface; 0 where there is none.
pub(super) fn landlock_version() -> i32 {
    const VERSION: u32 = 1; // LANDLOCK_CREATE_RULESET_VERSION
    // SAFETY: with this flag the call takes no struct and only returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION) };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// Ends this process at once, without running what a library registered for its end.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

/// Marks every descriptor of this process beyond 0, 1 and 2 as not to be inherited, also those that the process itself
/// inherited or that a library opened without that mark. On kernels before 5.11, which lack the call, does nothing.
pub(super) fn inherit_nothing() {
    // SAFETY: changes only the close-on-exec flag of descriptors, which no memory safety depends on.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}

/// Waits for a descriptor to become readable, on the current runtime.
pub(super) fn watch(handle: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd gives the same descriptor for as long as it lives, and nobody can close it meanwhile; the
    // AsyncFd owns it and deregisters it before it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) };
    Ok(watched?)
}

fn duration(time: libc::timeval) -> Duration {
    let micros = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_micros(micros)
}
