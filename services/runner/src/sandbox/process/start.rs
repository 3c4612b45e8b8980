//! From what is to be run to a script that runs.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::cgroup::CgroupLimits;
use super::folder::{self, Folder};
use super::order::WriteOrder;
use super::pool::Pool;
use super::prepared::Prepared;
use super::receipt::Held;
use super::wire::{self, Fault, Isolation, Notice, Order, Placed, ProcessLimits, Script};
use super::{MARKER, Shared};
use crate::sandbox::{RunSpec, SandboxError};

/// The environment variable with the folder of the run, where it has one on this machine.
pub(super) const FOLDER_MARKER: &str = "RUNMESH_RUN_FOLDER";

/// A script that has just been started.
#[derive(Debug)]
pub(super) struct Launched {
    // Dropped in this order: the processes end before their folder is removed.
    pub(super) sandbox: Prepared,
    pub(super) folder: Option<Folder>,
    pub(super) name: RunningName,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) order: Option<WriteOrder>,
    pub(super) main_process: Option<u32>,
    /// Processor time that the sandbox had used before.
    pub(super) cpu_before: Duration,
    pub(super) began: Instant,
    pub(super) at: SystemTime,
}

/// The names of the runs of a node.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<HashSet<String>>);

/// The name of one, which no other run has meanwhile.
#[derive(Debug)]
pub(super) struct RunningName {
    pub(super) name: String,
    running: Arc<Running>,
}

impl RunningName {
    pub(super) fn take(running: &Arc<Running>, spec: &RunSpec) -> Result<RunningName, SandboxError> {
        let name = folder::name_of(spec)?;
        if !running.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            let execution_id = spec.execution_id.clone();
            return Err(SandboxError::AlreadyRunning { execution_id, attempt: spec.attempt });
        }
        Ok(RunningName { name, running: Arc::clone(running) })
    }
}

impl Drop for RunningName {
    fn drop(&mut self) {
        self.running.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Starts the script. Blocks until its program has been loaded.
pub(super) fn launch(
    shared: &Shared,
    pool: &Pool,
    spec: &RunSpec,
    held: &Held,
    name: RunningName,
) -> Result<Launched, SandboxError> {
    let program = check(spec)?;
    let sandbox = pool.take()?;
    let folder = match shared.launcher.setup().isolation {
        Isolation::Plain => {
            let user = shared.users.is_some().then_some(sandbox.user.id);
            Some(Folder::create(&shared.folders, spec, user)?)
        }
        _ => None,
    };
    let failed = |step: &str| {
        let step = step.to_owned();
        move |source| SandboxError::Setup { step, source }
    };
    let mut cpu_before = Duration::ZERO;
    if let Some(cgroup) = &sandbox.cgroup {
        let limits = CgroupLimits {
            memory_bytes: held.memory_bytes,
            processes: held.processes.map(|count| count.saturating_add(1)),
            cpu_millis: held.cpu_millis,
        };
        cgroup.limit(&limits).map_err(failed("limit the cgroup"))?;
        cpu_before = cgroup.cpu().unwrap_or_default();
    }
    let script = script(shared, spec, held, program, folder.as_ref())?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("make a pipe")(error.into()));
    let (stdin, theirs_in) = if spec.stdin.is_empty() {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        (None, null.map_err(|error| failed("open /dev/null")(error.into()))?)
    } else {
        let (reading, writing) = pipe()?;
        (Some(writing), reading)
    };
    let ((stdout, theirs_out), (stderr, theirs_err)) = (pipe()?, pipe()?);
    if let Some(owner) = shared.script_user(&sandbox) {
        // So that a script can open them by name, such as /dev/stdout.
        let owner = Some(rustix::fs::Uid::from_raw(owner));
        for end in [&theirs_in, &theirs_out, &theirs_err].into_iter().skip(usize::from(stdin.is_none())) {
            rustix::fs::fchown(end, owner, None).map_err(|error| failed("hand a pipe over")(error.into()))?;
        }
    }
    // Before the first write.
    let order = WriteOrder::of([&stdout, &stderr]);
    let (began, at) = (Instant::now(), SystemTime::now());
    let hand_over = || -> io::Result<()> {
        let control = sandbox.first.control()?;
        let descriptors = [theirs_in.as_fd(), theirs_out.as_fd(), theirs_err.as_fd()];
        wire::send(control, &Order::Run(Box::new(script)), &descriptors)?;
        spec.files.iter().try_for_each(|file| wire::send_bytes(control, &file.content))
    };
    hand_over().map_err(failed("hand the script to its sandbox"))?;
    drop((theirs_in, theirs_out, theirs_err));
    let mut main_process = None;
    loop {
        match sandbox.first.receive()? {
            (Notice::Here, beside) => main_process = beside.sender,
            (Notice::Started, _) => break,
            (Notice::NotStarted(fault), _) => return Err(start_error(Path::new(program), &fault)),
            (other, _) => return Err(failed("start the script")(io::Error::other(format!("{other:?} came instead")))),
        }
    }
    Ok(Launched { sandbox, folder, name, stdin, stdout, stderr, order, main_process, cpu_before, began, at })
}

/// Refuses what can't be run, and returns the program.
fn check(spec: &RunSpec) -> Result<&str, SandboxError> {
    let invalid = |field, reason| Err(SandboxError::InvalidSpec { field, reason });
    let Some(program) = spec.command.first() else { return invalid("command", "is empty") };
    if !Path::new(program).is_absolute() && !program.starts_with("./") {
        return invalid("command", "has a program whose path neither is absolute nor begins with `./`");
    }
    if spec.command.iter().any(|part| part.contains('\0')) {
        return invalid("args", "has a NUL byte");
    }
    for (name, value) in &spec.environment {
        if name.is_empty() || name.contains(['=', '\0']) {
            return invalid("environment", "has a name that is empty or has `=` or NUL in it");
        }
        if value.contains('\0') {
            return invalid("environment", "has a value with a NUL byte");
        }
    }
    folder::check_paths(&spec.files)?;
    Ok(program)
}

fn script(
    shared: &Shared,
    spec: &RunSpec,
    held: &Held,
    program: &str,
    folder: Option<&Folder>,
) -> Result<Script, SandboxError> {
    let (work, temporary) = match folder {
        Some(folder) => (folder.work(), folder.temporary()),
        None => (Path::new(super::WORK), Path::new(super::TEMPORARY)),
    };
    let text = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(SandboxError::io("name in a message the folder", path)(ErrorKind::InvalidData.into())),
    };
    let mut path = String::new();
    // First the interpreter's own folder, so that what a script starts by name is of the same version.
    if let Some(folder) =
        Path::new(program).parent().filter(|folder| folder.is_absolute() && *folder != Path::new("/usr/bin"))
    {
        path.push_str(&text(folder)?);
        path.push(':');
    }
    path.push_str("/usr/local/bin:/usr/bin:/bin");
    let mut environment = vec![
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), text(work)?),
        ("TMPDIR".to_owned(), text(temporary)?),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
    ];
    // Later ones replace earlier ones.
    environment.extend(spec.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
    environment.push((MARKER.to_owned(), spec.execution_id.clone()));
    if let Some(folder) = folder {
        environment.push((FOLDER_MARKER.to_owned(), text(folder.path())?));
    }
    // What others of the script's files start: scripts that name their interpreter, and compiled programs.
    let executable = |content: &[u8]| content.starts_with(b"#!") || content.starts_with(b"\x7fELF");
    Ok(Script {
        command: spec.command.clone(),
        environment,
        directory: work.to_owned(),
        files: spec
            .files
            .iter()
            .map(|file| Placed {
                path: file.path.clone(),
                size: file.content.len() as u64,
                executable: executable(&file.content),
            })
            .collect(),
        disk_bytes: held.disk_bytes.filter(|bytes| *bytes != shared.config.disk_bytes),
        limits: ProcessLimits {
            cpu: held.cpu_time,
            file_bytes: held.file_bytes,
            processes: held.user_processes,
            data_bytes: held.data_bytes,
            open_files: shared.config.open_files,
        },
    })
}

fn start_error(program: &Path, fault: &Fault) -> SandboxError {
    let error = fault.error();
    match (fault.step.as_str(), error.raw_os_error()) {
        ("load the program", Some(libc::ENOENT)) if fs::metadata(program).is_err() => {
            SandboxError::MissingProgram { program: program.to_owned() }
        }
        ("load the program", Some(libc::E2BIG)) => {
            SandboxError::InvalidSpec { field: "args", reason: "and environment together are too long" }
        }
        ("load the program", _) => SandboxError::io("start", program)(error),
        (step, Some(libc::ENOSPC)) if step.starts_with("write the file") => {
            SandboxError::InvalidSpec { field: "files", reason: "don't fit into limits.disk_bytes" }
        }
        _ => SandboxError::Setup { step: fault.step.clone(), source: error },
    }
}
