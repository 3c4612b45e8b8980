//! The main process of a script: started, signalled, killed with its group, reaped.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::folder::Folder;
use super::sys::{self, Reaped};
use super::{MARKER, os};
use crate::sandbox::{RunSpec, SandboxError};

/// A script that has just been started.
#[derive(Debug)]
pub(super) struct Launched {
    // Dropped in this order: the processes end before their folder is removed.
    pub(super) child: Child,
    pub(super) folder: Folder,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) began: Instant,
    pub(super) at: SystemTime,
}

/// The main process and its group. Killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
    /// This node's greatest resident set at the start; the child's figure can't be told from it if smaller.
    parent_peak_rss: u64,
}

/// Starts the script. Blocks until the program has been loaded.
pub(super) fn launch(spec: &RunSpec, folder: Folder, began: Instant, at: SystemTime) -> Result<Launched, SandboxError> {
    let (program, arguments) =
        spec.command.split_first().ok_or(SandboxError::InvalidSpec { field: "command", reason: "is empty" })?;
    let program = Path::new(program);
    if !program.is_absolute() {
        return Err(SandboxError::InvalidSpec { field: "command", reason: "has a program without an absolute path" });
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(environment(spec, program, &folder)?)
        .current_dir(folder.work())
        .process_group(0)
        .stdin(if spec.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::inherit_nothing();
    let mut process = spawn(&mut command).map_err(|error| start_error(program, error))?;
    let pid = Pid::from_child(&process);
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            kill_group(pid);
            sys::reap(pid_number(pid)).ok();
            return Err(SandboxError::io("open a handle to", program)(os(error)));
        }
    };
    // After the spawn, so that it is not less than what the child was given of it.
    let child = Child { pid, pidfd, reaped: false, parent_peak_rss: sys::own_peak_rss() };
    let missing = || SandboxError::io("open a pipe to", program)(ErrorKind::BrokenPipe.into());
    Ok(Launched {
        stdin: process.stdin.take().map(OwnedFd::from),
        stdout: process.stdout.take().map(OwnedFd::from).ok_or_else(missing)?,
        stderr: process.stderr.take().map(OwnedFd::from).ok_or_else(missing)?,
        child,
        folder,
        began,
        at,
    })
}

/// A program that was written a moment ago can be busy: another spawn may hold the writer's descriptor until its exec.
fn spawn(command: &mut Command) -> io::Result<std::process::Child> {
    for _ in 0..50 {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
    command.spawn()
}

fn start_error(program: &Path, error: io::Error) -> SandboxError {
    match error.kind() {
        ErrorKind::NotFound if fs::metadata(program).is_err() => {
            SandboxError::MissingProgram { program: program.to_owned() }
        }
        ErrorKind::ArgumentListTooLong => {
            SandboxError::InvalidSpec { field: "args", reason: "and environment together are too long" }
        }
        ErrorKind::InvalidInput => SandboxError::InvalidSpec { field: "args", reason: "has a NUL byte" },
        _ => SandboxError::io("start", program)(error),
    }
}

fn environment(
    spec: &RunSpec,
    program: &Path,
    folder: &Folder,
) -> Result<impl Iterator<Item = (OsString, OsString)>, SandboxError> {
    let invalid = |reason| SandboxError::InvalidSpec { field: "environment", reason };
    for (name, value) in &spec.environment {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(invalid("has a name that is empty or has `=` or NUL in it"));
        }
        if value.contains('\0') {
            return Err(invalid("has a value with a NUL byte"));
        }
    }
    let mut path = OsString::new();
    // First the interpreter's own folder, so that what a script starts by name is of the same version.
    if let Some(folder) = program.parent().filter(|folder| *folder != Path::new("/usr/bin")) {
        path.push(folder);
        path.push(":");
    }
    path.push("/usr/local/bin:/usr/bin:/bin");
    let own = [
        ("PATH", path),
        ("HOME", folder.work().into()),
        ("TMPDIR", folder.temporary().into()),
        ("LANG", "C.UTF-8".into()),
        ("PYTHONUNBUFFERED", "1".into()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.into(), value));
    let theirs = spec.environment.iter().map(|(name, value)| (name.into(), value.into()));
    let marks = [(MARKER, OsString::from(&spec.execution_id)), (FOLDER_MARKER, folder.path().into())];
    let marks = marks.into_iter().map(|(name, value)| (name.into(), value));
    // Later ones replace earlier ones.
    Ok(own.chain(theirs).chain(marks))
}

/// The environment variable with the folder of the run.
pub(super) const FOLDER_MARKER: &str = "RUNMESH_RUN_FOLDER";

impl Child {
    pub(super) fn pid(&self) -> u32 {
        pid_number(self.pid)
    }

    /// Another handle to the main process, readable once it has ended.
    pub(super) fn exit_handle(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Whether the main process has ended. It stays a zombie until [`Child::finish`], so that its id stays its own.
    pub(super) fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options), Ok(None))
    }

    /// SIGTERM to the group, and to the main process if that left its group. Wakes what is stopped, so that it sees it.
    pub(super) fn terminate(&self) {
        for signal in [Signal::TERM, Signal::CONT] {
            rustix::process::kill_process_group(self.pid, signal).ok();
            if rustix::process::getpgid(Some(self.pid)).is_ok_and(|group| group != self.pid) {
                rustix::process::pidfd_send_signal(&self.pidfd, signal).ok();
            }
        }
    }

    /// SIGKILL to the group, and to the main process if that left its group.
    pub(super) fn kill(&self) {
        kill_group(self.pid);
        rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
    }

    /// Kills what is left of the group, then reaps the main process: blocks until it has ended.
    pub(super) fn finish(&mut self) -> io::Result<Reaped> {
        self.kill();
        self.reaped = true;
        sys::reap(self.pid())
    }

    /// The greatest resident set, if it is known to be of the child itself: until its `exec` it shares this node's
    /// memory, and the kernel counts that too. The kernel's counts are approximate, hence the margin.
    pub(super) fn peak_rss(&self, reaped: &Reaped) -> Option<u64> {
        let inherited = self.parent_peak_rss.saturating_add(self.parent_peak_rss / 8);
        (reaped.peak_rss_bytes > inherited).then_some(reaped.peak_rss_bytes)
    }

    /// The greatest resident set of the main process so far. `None` once it has ended.
    pub(super) fn sample_peak_rss(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.finish().ok();
        }
    }
}

fn kill_group(group: Pid) {
    rustix::process::kill_process_group(group, Signal::KILL).ok();
}

fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}
