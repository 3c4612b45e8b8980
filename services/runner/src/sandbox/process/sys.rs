//! What no safe wrapper in use here offers. All `unsafe` of the crate is in this file.
#![allow(unsafe_code, reason = "rustix and the standard library lack wait4, getrusage and close_range")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What `wait4` says of a process that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    /// The exit code, if it exited.
    pub(super) code: Option<i32>,
    /// The signal, if one ended it.
    pub(super) signal: Option<i32>,
    pub(super) cpu_user: Duration,
    pub(super) cpu_system: Duration,
    /// The greatest resident set of the process or of one that it waited for, in bytes. Includes the spawning process
    /// as it was at the time of the spawn, with which the child shared its memory until `exec`.
    pub(super) peak_rss_bytes: u64,
}

/// Reaps a child that has ended or is about to: blocks until it has.
pub(super) fn reap(pid: u32) -> io::Result<Reaped> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to live, writable locals of the types that wait4 fills in.
        let got = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if got == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: every bit pattern is a valid rusage (integers only), it was zeroed, and wait4 succeeded.
    let usage = unsafe { usage.assume_init() };
    Ok(Reaped {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        cpu_user: duration(usage.ru_utime),
        cpu_system: duration(usage.ru_stime),
        peak_rss_bytes: kibibytes(usage.ru_maxrss),
    })
}

/// The greatest resident set of this process so far, in bytes.
pub(super) fn own_peak_rss() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a live, writable local of the type that getrusage fills in.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if done != 0 {
        return u64::MAX;
    }
    // SAFETY: every bit pattern is a valid rusage, it was zeroed, and getrusage succeeded.
    kibibytes(unsafe { usage.assume_init() }.ru_maxrss)
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

fn kibibytes(count: libc::c_long) -> u64 {
    u64::try_from(count).unwrap_or(0) * 1024
}
