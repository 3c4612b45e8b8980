//! The system calls that scripts may make: a list of those that programs need. All others fail with EPERM, a few with
//! ENOSYS, so that libraries take the older way.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::super::sys;
use calls::{ALWAYS, ISOLATED, SCHEDULING, legacy};

mod calls;
mod index;

/// Namespaces that `clone` could make.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What fails as if the kernel did not have it: `clone3`, whose flags a filter can't see, io_uring, whose operations a
/// filter can't see either, and asynchronous input and output, of which there is a fixed number for the whole machine.
const ABSENT: [i64; 9] = [
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_io_destroy,
    libc::SYS_io_submit,
    libc::SYS_io_cancel,
    libc::SYS_io_getevents,
];

/// A process, as `ioprio_set` has it.
const IOPRIO_WHO_PROCESS: i32 = 1;

/// What there is nobody else to reach by.
#[derive(Clone, Copy)]
pub(super) struct Apart {
    /// The script has a process and an ipc namespace of its own.
    pub(super) namespaces: bool,
    /// It has a network namespace of its own.
    pub(super) network: bool,
}

/// The filters, in the order in which they are to be installed.
pub(super) fn filters(apart: Apart) -> Result<Vec<BpfProgram>, BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().chain(legacy::ALWAYS).map(|call| (*call, Vec::new())).collect();
    if apart.namespaces {
        allowed.extend(ISOLATED.iter().map(|call| (*call, Vec::new())));
        allowed.insert(libc::SYS_shmget, vec![rule(&[without(2, libc::SHM_HUGETLB)?])?]);
    }
    // Libraries set this for each of their threads, which are not the calling one.
    let own = if apart.namespaces { Vec::new() } else { vec![rule(&[equal(0, 0)?])?] };
    allowed.extend(SCHEDULING.iter().map(|call| (*call, own.clone())));
    // Of whoever watches the script nothing is changed: limits are set for the caller alone, and read of others.
    allowed.insert(libc::SYS_prlimit64, vec![rule(&[equal(0, 0)?])?, rule(&[masked(2, u64::MAX, 0)?])?]);
    let groups = [libc::PRIO_PROCESS, libc::PRIO_PGRP];
    allowed.insert(
        libc::SYS_setpriority,
        groups.iter().map(|which| rule(&[equal(0, *which as i32)?, equal(1, 0)?])).collect::<Result<_, _>>()?,
    );
    allowed.insert(libc::SYS_ioprio_set, vec![rule(&[equal(0, IOPRIO_WHO_PROCESS)?, equal(1, 0)?])?]);
    // Huge pages are set aside for someone on this machine, and no limit counts them.
    allowed.insert(libc::SYS_mmap, vec![rule(&[without(3, libc::MAP_HUGETLB)?])?]);
    allowed.insert(libc::SYS_memfd_create, vec![rule(&[without(1, libc::MFD_HUGETLB.cast_signed())?])?]);
    let mask = u64::from(NAMESPACES.unsigned_abs());
    allowed.insert(libc::SYS_clone, vec![rule(&[masked(0, mask, 0)?])?]);
    allowed.insert(libc::SYS_socket, sockets(apart)?);
    allowed.insert(libc::SYS_socketpair, vec![rule(&[equal(0, libc::AF_UNIX)?])?]);
    // Reading the personality, the usual one, and the one without randomised addresses.
    let personalities = [0, libc::ADDR_NO_RANDOMIZE.unsigned_abs(), u32::MAX];
    allowed.insert(
        libc::SYS_personality,
        personalities
            .into_iter()
            .map(|one| rule(&[masked(0, u64::from(u32::MAX), u64::from(one))?]))
            .collect::<Result<_, _>>()?,
    );
    // Not into a terminal that someone else reads.
    allowed.insert(libc::SYS_ioctl, vec![rule(&[not_equal(1, libc::TIOCSTI)?, not_equal(1, libc::TIOCLINUX)?])?]);
    let (always, by_arguments): (BTreeMap<_, _>, BTreeMap<_, _>) =
        allowed.into_iter().partition(|(_, rules)| rules.is_empty());
    let list: BpfProgram =
        SeccompFilter::new(by_arguments, errno(libc::EPERM), SeccompAction::Allow, arch)?.try_into()?;
    let always = always.into_keys().filter_map(|call| u32::try_from(call).ok()).collect();
    let list = index::in_front(&always, arch, list).ok_or(BackendError::FilterTooLarge(always.len()))?;
    let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    let absent = SeccompFilter::new(absent, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
    // Of two errors the one of the filter that was installed last is returned.
    Ok(vec![list, absent.try_into()?])
}

/// Has it told when this process, or what it starts, asks for a socket that is not a local one.
pub(super) fn tell_of_sockets() -> io::Result<OwnedFd> {
    let arch = std::env::consts::ARCH.try_into().map_err(|error: BackendError| io::Error::other(error.to_string()))?;
    sys::seccomp_listener(&index::tell_of_sockets(arch))
}

/// Of the internet's sockets only TCP and UDP, and only where they lead nowhere. Elsewhere a script gets no local ones
/// either: those of others could be there, in the file system or by their abstract names.
fn sockets(apart: Apart) -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = Vec::new();
    if apart.namespaces && apart.network {
        rules.push(rule(&[equal(0, libc::AF_UNIX)?])?);
        for family in [libc::AF_INET, libc::AF_INET6] {
            for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
                rules.push(rule(&[equal(0, family)?, masked(1, 0xf, u64::from(kind.unsigned_abs()))?])?);
            }
        }
    } else {
        // A rule is needed; there is no such family.
        rules.push(rule(&[equal(0, -1)?])?);
    }
    Ok(rules)
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

/// That a flag is not set.
fn without(argument: u8, flag: i32) -> Result<SeccompCondition, BackendError> {
    masked(argument, u64::from(flag.cast_unsigned()), 0)
}

fn equal(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value.cast_unsigned()))
}

fn not_equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn it_is_told_when_a_socket_is_asked_for_that_is_not_a_local_one() {
        const ARCH: u32 = 0xc000_003e;
        const TOLD: u32 = libc::SECCOMP_RET_USER_NOTIF;
        let filter = index::tell_of_sockets(TargetArch::x86_64);
        let ask = |arch: u32, call: i64, first: u64| {
            index::tests::ask(&filter, arch, u32::try_from(call).unwrap(), [first, 1, 0, 0, 0, 0]).0
        };
        let family = |family: i32| u64::from(family.unsigned_abs());
        assert_eq!(ask(ARCH, libc::SYS_socket, family(libc::AF_UNIX)), ALLOWED);
        for other in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, 99] {
            assert_eq!(ask(ARCH, libc::SYS_socket, family(other)), TOLD, "{other}");
        }
        for call in [libc::SYS_read, libc::SYS_socketpair, libc::SYS_connect] {
            assert_eq!(ask(ARCH, call, family(libc::AF_INET)), ALLOWED, "{call}");
        }
        assert_eq!(ask(0x4000_0003, libc::SYS_read, 0), TOLD);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_list_is_what_is_allowed_and_nothing_else() {
        const ARCH: u32 = 0xc000_003e;
        let both = [true, false].map(|namespaces| {
            let filters = filters(Apart { namespaces, network: namespaces }).unwrap();
            let ask = move |call: i64, arguments: [u64; 6]| {
                index::tests::ask(&filters[0], ARCH, u32::try_from(call).unwrap(), arguments).0
            };
            for call in ALWAYS.iter().chain(legacy::ALWAYS) {
                assert_eq!(ask(*call, [u64::MAX; 6]), ALLOWED, "{call}");
            }
            for call in [libc::SYS_mount, libc::SYS_ptrace, libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_unshare, 999] {
                assert_eq!(ask(call, [0; 6]), REFUSED, "{call}");
            }
            let threads = (libc::CLONE_VM | libc::CLONE_THREAD).unsigned_abs().into();
            assert_eq!(ask(libc::SYS_clone, [threads, 0, 0, 0, 0, 0]), ALLOWED);
            assert_eq!(ask(libc::SYS_clone, [libc::CLONE_NEWUSER.unsigned_abs().into(), 0, 0, 0, 0, 0]), REFUSED);
            ISOLATED.iter().map(|call| ask(*call, [0; 6])).collect::<Vec<_>>()
        });
        assert!(both[0].iter().all(|answer| *answer == ALLOWED), "{both:?}");
        assert!(both[1].iter().all(|answer| *answer == REFUSED), "{both:?}");
    }
}
