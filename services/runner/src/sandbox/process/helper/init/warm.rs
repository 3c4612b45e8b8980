//! An interpreter that is started before there is a script for it, waits, and then becomes that script's main process. It
//! is confined as the script will be before it begins, so that nothing but limits is left to do when it is woken.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::process::Signal;

use super::super::super::wire::{self, Fault, Notice, Script, Step};
use super::super::{root, script};
use super::{Birth, Init, bear, drain, pid_of, signal};

/// How long an interpreter may take until it waits, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to wake.
const WAKING: Duration = Duration::from_secs(2);
/// Tells the hook the descriptors that are for it.
const VARIABLE: &str = "RUNMESH_PREPARED";
/// The first folder in which Python looks for modules.
const PYTHON_FOLDER: &str = "PYTHONPATH";
/// What the hook says once it waits, and once more before it goes on.
const SIGN: &[u8] = b"+";

/// The interpreter that waits.
pub(super) struct Warm {
    pub(super) pid: u32,
    /// What it waits on.
    wake: OwnedFd,
}

impl Init<'_> {
    /// Starts an interpreter that waits for its script.
    pub(super) fn warm(&mut self, script: Script, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let notice = match self.begin(script, descriptors) {
            Ok(()) => Notice::Waiting,
            Err(fault) => {
                self.end_warm()?;
                Notice::NotStarted(fault)
            }
        };
        wire::send(&self.control, &notice, &[])
    }

    fn begin(&mut self, mut script: Script, mut streams: Vec<OwnedFd>) -> Result<(), Fault> {
        let later = (streams.len() == 4).then(|| streams.pop()).flatten();
        let later = later.ok_or(Fault { step: "find the standard streams".to_owned(), errno: libc::EBADF })?;
        let unconfined = || Fault { step: "confine the interpreter".to_owned(), errno: libc::EINVAL };
        let confinement = self.confined.as_ref().ok_or_else(unconfined)?;
        let (wake, theirs) = wire::pair().step("make a socket")?;
        set_socket_timeout(&wake, Timeout::Recv, Some(PATIENCE)).step("make a socket")?;
        let numbers = format!("{},{}", theirs.as_raw_fd(), later.as_raw_fd());
        script.environment.push((VARIABLE.to_owned(), numbers));
        script.environment.push((PYTHON_FOLDER.to_owned(), root::HOOKS.to_owned()));
        let birth = Birth {
            script: &script,
            streams: &streams,
            kept: &[&theirs, &later],
            user: self.script_user(),
            confinement,
            control: &self.control,
        };
        let (pid, loaded) = bear(&birth)?;
        // Before anything can fail: it has to be reaped.
        self.warm = Some(Warm { pid, wake });
        // With the last copies here gone, its end is seen.
        drop((theirs, streams, later));
        loaded?;
        self.sign("wait for the interpreter")
    }

    /// Waits for the next sign of the hook.
    fn sign(&self, step: &str) -> Result<(), Fault> {
        let Some(warm) = &self.warm else { return Err(Fault { step: step.to_owned(), errno: libc::ESRCH }) };
        let mut sign = [0; SIGN.len()];
        wire::receive_bytes(&warm.wake, &mut sign).step(step)?;
        if sign == SIGN { Ok(()) } else { Err(Fault { step: step.to_owned(), errno: libc::EPROTO }) }
    }

    /// Has the interpreter that waits become its script.
    pub(super) fn wake(&mut self, script: &Script, has_input: bool) -> io::Result<()> {
        let notice = match self.furnish(script) {
            Ok(()) => match self.hand_over(script, has_input) {
                Ok(()) => Notice::Started,
                Err(fault) => Notice::NotWoken(fault),
            },
            Err(fault) => Notice::NotStarted(fault),
        };
        wire::send(&self.control, &notice, &[])
    }

    fn hand_over(&mut self, script: &Script, has_input: bool) -> Result<(), Fault> {
        let gone = || Fault { step: "find the interpreter that waits".to_owned(), errno: libc::ESRCH };
        let warm = self.warm.as_ref().ok_or_else(gone)?;
        let process = pid_of(warm.pid).ok_or_else(gone)?;
        match self.script_user() {
            Some(user) => script::limit_as(user, process, &script.limits)?,
            None => script::limit(Some(process), &script.limits)?,
        }
        self.drop_privileges()?;
        let used = used(warm.pid);
        for side in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&warm.wake, side, Some(WAKING)).step("wake the interpreter")?;
        }
        wire::send_bytes(&warm.wake, &message(script, has_input)).step("wake the interpreter")?;
        rustix::net::shutdown(&warm.wake, Shutdown::Write).step("wake the interpreter")?;
        self.sign("wait for the interpreter to wake")?;
        self.main = self.warm.take().map(|warm| warm.pid);
        self.warm_cpu = used;
        Ok(())
    }

    /// Ends the interpreter that waits.
    pub(super) fn discard(&mut self) -> io::Result<()> {
        self.end_warm()?;
        wire::send(&self.control, &Notice::Discarded, &[])
    }

    /// Ends it, if there is one, and waits until nothing of it is left.
    fn end_warm(&mut self) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        while let Some(warm) = &self.warm {
            signal(warm.pid, Signal::KILL);
            let left = until.saturating_duration_since(Instant::now());
            let mut watched = [PollFd::new(&self.children, PollFlags::IN)];
            match poll(&mut watched, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            drain(&self.children);
            self.reap()?;
        }
        Ok(())
    }
}

/// What the hook is told: fields with NUL between them.
fn message(script: &Script, has_input: bool) -> Vec<u8> {
    // The program and the main file are known to it.
    let arguments = script.command.get(2..).unwrap_or_default();
    // Of variables with one name the last holds, and they are in the order of their names, as for other programs.
    let environment: std::collections::BTreeMap<&str, &str> =
        script.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut fields = vec![u8::from(has_input).to_string(), arguments.len().to_string()];
    fields.extend(arguments.iter().cloned());
    fields.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
    fields.push("end".to_owned());
    fields.join("\0").into_bytes()
}

/// The processor time that a process has used so far; nothing where the kernel does not tell.
fn used(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0))
}

/// Processor time without what had been used before. The kernel tells of that only the sum: it is taken from both kinds
/// alike.
pub(super) fn without(before: Duration, user: Duration, system: Duration) -> (Duration, Duration) {
    let all = user + system;
    if all.is_zero() {
        return (user, system);
    }
    let left = all.saturating_sub(before).as_secs_f64() / all.as_secs_f64();
    (user.mul_f64(left), system.mul_f64(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_before_is_taken_from_both_kinds_of_time() {
        let millis = Duration::from_millis;
        assert_eq!(without(millis(50), millis(80), millis(20)), (millis(40), millis(10)));
        assert_eq!(without(millis(200), millis(80), millis(20)), (Duration::ZERO, Duration::ZERO));
        assert_eq!(without(Duration::ZERO, millis(80), millis(20)), (millis(80), millis(20)));
        assert_eq!(without(millis(1), Duration::ZERO, Duration::ZERO), (Duration::ZERO, Duration::ZERO));
    }
}
