//! The system calls that scripts may make: a list of those that programs need. All others fail with EPERM, a few with
//! ENOSYS, so that libraries take the older way.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use calls::{ALWAYS, ISOLATED, legacy};

mod calls;

/// Namespaces that `clone` could make.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What fails as if the kernel did not have it: `clone3`, whose flags a filter can't see, and io_uring, whose operations
/// a filter can't see either.
const ABSENT: [i64; 4] =
    [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The filters, in the order in which they are to be installed. `isolated`: the script has namespaces of its own, so that
/// sockets and System V objects are nobody else's.
pub(super) fn filters(isolated: bool) -> Result<Vec<BpfProgram>, BackendError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().chain(legacy::ALWAYS).map(|call| (*call, Vec::new())).collect();
    if isolated {
        allowed.extend(ISOLATED.iter().map(|call| (*call, Vec::new())));
    }
    let mask = u64::from(NAMESPACES.unsigned_abs());
    allowed.insert(libc::SYS_clone, vec![rule(&[masked(0, mask, 0)?])?]);
    allowed.insert(libc::SYS_socket, sockets(isolated)?);
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
    let list = SeccompFilter::new(allowed, errno(libc::EPERM), SeccompAction::Allow, arch)?;
    let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    let absent = SeccompFilter::new(absent, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
    // Of two errors the one of the filter that was installed last is returned.
    Ok(vec![list.try_into()?, absent.try_into()?])
}

/// Of the internet's sockets only TCP and UDP, and only where they lead nowhere. Without a file system of its own a
/// script gets no named local ones either: those of others could be there.
fn sockets(isolated: bool) -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = Vec::new();
    if isolated {
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

fn equal(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value.cast_unsigned()))
}

fn not_equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}
