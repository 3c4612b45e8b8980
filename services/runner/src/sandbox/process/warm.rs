//! Interpreters that are started before there is a script for them: each in the sandbox of its script, which is used once, so
//! that none ever crosses from one run to another.
//!
//! One waits at the end of its own start and then becomes the script's main process ([`super::helper`]). Whether a run may
//! have it is decided here: only if a plain start of its command would come to the very same point.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Shared;
use super::prepared::Prepared;
use super::receipt::Held;
use super::start::{self, basic_environment};
use super::wire::{self, Isolation, Notice, Order, ProcessLimits, Script};
use crate::sandbox::{RunSpec, SandboxError};

/// An interpreter needs some of the memory itself; with less than this it is not worth the risk.
const LEAST_MEMORY: u64 = 64 << 20;
/// A longer command is left to the kernel, which may refuse it.
const LONGEST_COMMAND: usize = 64 << 10;
/// Variables that an interpreter, the C library or the loader looks at during the start, by what their names begin with.
const EARLY: [&str; 9] = ["HOME", "LANG", "LC_", "LD_", "TZ", "GLIBC_", "GCONV_", "LOCPATH", "NLSPATH"];
/// The same, by what is anywhere in their names.
const EARLY_PARTS: [&str; 2] = ["PYTHON", "MALLOC"];
/// Below the home folder, Python looks here for more that is run at its start.
const USER_SITE: &str = ".local/";

/// What an interpreter is prepared for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) program: String,
    main_file: String,
}

/// An interpreter that waits, with the ends of its pipes.
#[derive(Debug)]
pub(super) struct Warmed {
    pub(super) target: Target,
    pub(super) main_process: Option<u32>,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Target {
    /// The interpreter that this run may have. `None`: none.
    pub(super) fn of(shared: &Shared, spec: &RunSpec, held: &Held) -> Option<Target> {
        // Without a file system of its own each run has another working folder.
        if shared.launcher.setup().isolation == Isolation::Plain {
            return None;
        }
        let [program, main_file, arguments @ ..] = spec.command.as_slice() else { return None };
        let prepared = shared.config.prepare.iter().any(|one| one == Path::new(program));
        // What is no file of the script is an option, or the name of something else.
        let own = spec.files.iter().any(|file| file.path == *main_file);
        let limits = [held.memory_bytes, held.data_bytes];
        let room = limits.into_iter().flatten().all(|bytes| bytes >= LEAST_MEMORY);
        let lengths = arguments.iter().map(String::len);
        let length: usize = lengths.chain(spec.environment.iter().map(|(name, value)| name.len() + value.len())).sum();
        let early = spec.environment.keys().any(|name| is_early(name))
            || spec.files.iter().any(|file| file.path.starts_with(USER_SITE));
        (prepared && own && !main_file.starts_with('-') && room && length <= LONGEST_COMMAND && !early)
            .then(|| Target { program: program.clone(), main_file: main_file.clone() })
    }
}

fn is_early(name: &str) -> bool {
    EARLY.iter().any(|start| name.starts_with(start)) || EARLY_PARTS.iter().any(|part| name.contains(part))
}

impl Prepared {
    /// Has an interpreter started in this sandbox. Blocks until it waits for its script.
    pub(super) fn warm(&mut self, shared: &Shared, target: &Target) -> Result<(), SandboxError> {
        let failed = |source| SandboxError::Setup { step: "prepare an interpreter".to_owned(), source };
        let (work, temporary) = (PathBuf::from(super::WORK), Path::new(super::TEMPORARY));
        let script = Script {
            command: vec![target.program.clone(), target.main_file.clone()],
            environment: basic_environment(&target.program, &work, temporary)?,
            directory: work,
            files: Vec::new(),
            disk_bytes: None,
            limits: ProcessLimits {
                cpu: None,
                file_bytes: None,
                processes: None,
                data_bytes: None,
                open_files: shared.config.open_files,
            },
        };
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()));
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(|error| failed(error.into()))?;
        let ((theirs_in, stdin), (stdout, theirs_out), (stderr, theirs_err)) = (pipe()?, pipe()?, pipe()?);
        start::hand_over_pipes(shared, self, [&theirs_in, &theirs_out, &theirs_err])?;
        let descriptors = [null.as_fd(), theirs_out.as_fd(), theirs_err.as_fd(), theirs_in.as_fd()];
        let control = self.first.control().map_err(failed)?;
        wire::send(control, &Order::Warm(Box::new(script)), &descriptors).map_err(failed)?;
        drop((theirs_in, theirs_out, theirs_err));
        let mut main_process = None;
        loop {
            match self.first.receive()? {
                (Notice::Here, beside) => main_process = beside.sender,
                (Notice::Waiting, _) => break,
                (Notice::NotStarted(fault), _) => return Err(fault.into()),
                (other, _) => return Err(failed(io::Error::other(format!("{other:?} came instead")))),
            }
        }
        self.warmed = Some(Warmed { target: target.clone(), main_process, stdin, stdout, stderr });
        Ok(())
    }

    /// Ends the interpreter that waits here, if there is one, and what it used is forgotten. Blocks until that is so.
    pub(super) fn discard(&mut self) -> Result<(), SandboxError> {
        if self.warmed.take().is_none() {
            return Ok(());
        }
        let failed = |source| SandboxError::Setup { step: "end a prepared interpreter".to_owned(), source };
        wire::send(self.first.control().map_err(failed)?, &Order::Discard, &[]).map_err(failed)?;
        match self.first.receive()? {
            (Notice::Discarded, _) => {}
            (other, _) => return Err(failed(io::Error::other(format!("{other:?} came instead")))),
        }
        match &self.cgroup {
            Some(cgroup) => cgroup.reset_peak().map_err(failed),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_a_start_looks_at_are_known() {
        for name in
            ["HOME", "LANG", "LANGUAGE", "LC_ALL", "LD_PRELOAD", "PYTHONPATH", "_PYTHON_X", "MALLOC_ARENA_MAX", "TZ"]
        {
            assert!(is_early(name), "{name}");
        }
        for name in ["PATH", "NAME", "GREETING", "MY_LANG", "TOTAL_LC", "RUNMESH_EXECUTION_ID"] {
            assert!(!is_early(name), "{name}");
        }
    }
}
