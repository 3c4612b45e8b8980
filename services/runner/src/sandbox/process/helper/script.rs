//! The last steps before a script's program is loaded, in the process that becomes its main process.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid, getrlimit, prlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::super::sys;
use super::super::wire::{self, Fault, Notice, ProcessLimits, Script, Step};
use super::confine::Applicable;

/// How much longer a process has after SIGXCPU than its processor time, before it is killed.
const CPU_GRACE: Duration = Duration::from_secs(1);

/// What a process becomes a script with.
pub(super) struct Birth<'a> {
    pub(super) script: &'a Script,
    /// Standard input, output and error.
    pub(super) streams: &'a [OwnedFd],
    /// Others that its program finds open, by the same numbers.
    pub(super) kept: &'a [&'a OwnedFd],
    pub(super) user: Option<u32>,
    pub(super) confinement: &'a Applicable<'a>,
    pub(super) control: &'a OwnedFd,
}

/// The arguments of a program and its environment, as the kernel takes them. Of variables with one name the last holds, and
/// they are in the order of their names.
pub(super) struct Texts {
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Texts {
    pub(super) fn of(script: &Script) -> Result<Texts, Fault> {
        let text = |text: String| CString::new(text).step("read the command");
        let variables: BTreeMap<&str, &str> =
            script.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok(Texts {
            arguments: script.command.iter().cloned().map(text).collect::<Result<_, _>>()?,
            environment: variables
                .into_iter()
                .map(|(name, value)| text(format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Becomes the script. Returns only if that can't be done, and why. Until then the process shares the memory of the sandbox's
/// first process.
pub(super) fn become_script(birth: &Birth<'_>, texts: &Texts) -> Fault {
    match try_become(birth, texts) {
        Ok(never) => match never {},
        Err(fault) => fault,
    }
}

fn try_become(birth: &Birth<'_>, texts: &Texts) -> Result<std::convert::Infallible, Fault> {
    let Birth { script, streams, kept, user, confinement, control } = birth;
    let [stdin, stdout, stderr] = streams else {
        return Err(Fault { step: "find the standard streams".to_owned(), errno: libc::EBADF });
    };
    // The kernel tells the node who this is.
    wire::send(control, &Notice::Here, &[]).step("tell the node")?;
    sys::reset_signals().step("reset signals")?;
    rustix::process::setsid().step("start a session")?;
    rustix::stdio::dup2_stdin(stdin).step("connect standard input")?;
    rustix::stdio::dup2_stdout(stdout).step("connect standard output")?;
    rustix::stdio::dup2_stderr(stderr).step("connect standard error")?;
    limit(None, &script.limits)?;
    if let Some(user) = user {
        become_user(*user)?;
    }
    rustix::process::chdir(&script.directory).step("enter the working folder")?;
    drop_capabilities(CapabilitySet::empty())?;
    // After the change of the user, which clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("die with the sandbox")?;
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    sys::inherit_nothing();
    for descriptor in *kept {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty()).step("keep a descriptor")?;
    }
    confinement.apply()?;
    let mut error = sys::execute(&texts.arguments, &texts.environment);
    // A program that was written a moment ago can be busy: another process may hold the writer's descriptor until its
    // own exec.
    for _ in 0..50 {
        if error.kind() != io::ErrorKind::ExecutableFileBusy {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        error = sys::execute(&texts.arguments, &texts.environment);
    }
    Err(Fault::new("load the program", &error))
}

/// Becomes a user without privileges, for good.
pub(super) fn become_user(user: u32) -> Result<(), Fault> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    rustix::thread::set_thread_groups(&[]).step("leave all groups")?;
    rustix::thread::set_thread_res_gid(group, group, group).step("change the group")?;
    rustix::thread::set_thread_res_uid(user, user, user).step("change the user")
}

/// Limits a process of this user, which this one is not: as a process of the same user, for which no capability is needed.
pub(super) fn limit_as(user: u32, process: Pid, limits: &ProcessLimits) -> Result<(), Fault> {
    let (own_user, own_group) = (rustix::process::geteuid(), rustix::process::getegid());
    let be = |user: Uid, group: Gid| {
        rustix::thread::set_thread_res_gid(group, own_group, own_group).step("change the real group")?;
        rustix::thread::set_thread_res_uid(user, own_user, own_user).step("change the real user")
    };
    be(Uid::from_raw(user), Gid::from_raw(user))?;
    let limited = limit(Some(process), limits);
    be(own_user, own_group)?;
    limited
}

/// Gives up what a program could bring along. Who may not do so can't gain anything by a program either.
pub(super) fn drop_bounds() {
    for capability in CapabilitySet::all().iter() {
        rustix::thread::remove_capability_from_bounding_set(capability).ok();
    }
}

/// Gives up all capabilities but these.
pub(super) fn drop_capabilities(kept: CapabilitySet) -> Result<(), Fault> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).step("give up capabilities")
}

/// Limits a process: this one, or one that was started by this one.
pub(super) fn limit(process: Option<Pid>, limits: &ProcessLimits) -> Result<(), Fault> {
    let exactly = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    // Where this process itself is held to less, so is the script.
    let set = |resource, limit: Rlimit, name: &str| {
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let lower = |value: Option<u64>| value.map(|value| value.min(most));
        let limit = Rlimit { current: lower(limit.current), maximum: lower(limit.maximum) };
        prlimit(process, resource, limit).map(drop).step(format!("set the limit {name}"))
    };
    set(Resource::Core, exactly(0), "RLIMIT_CORE")?;
    // Whatever this process may do, a script does not take processors from others.
    set(Resource::Rtprio, exactly(0), "RLIMIT_RTPRIO")?;
    set(Resource::Nice, exactly(0), "RLIMIT_NICE")?;
    set(Resource::Nofile, exactly(limits.open_files), "RLIMIT_NOFILE")?;
    if let Some(bytes) = limits.file_bytes {
        set(Resource::Fsize, exactly(bytes), "RLIMIT_FSIZE")?;
    }
    if let Some(count) = limits.processes {
        set(Resource::Nproc, exactly(count), "RLIMIT_NPROC")?;
    }
    if let Some(bytes) = limits.data_bytes {
        set(Resource::Data, exactly(bytes), "RLIMIT_DATA")?;
    }
    if let Some(time) = limits.cpu {
        // Whole seconds, rounded up: a run that may use 1.5 s is not ended after 1 s.
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let maximum = Some(seconds.saturating_add(CPU_GRACE.as_secs()));
        set(Resource::Cpu, Rlimit { current: Some(seconds), maximum }, "RLIMIT_CPU")?;
    }
    Ok(())
}
