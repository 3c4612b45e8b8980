//! From what is to be run to a script that runs.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;

use super::cgroup::{Cgroup, CgroupLimits};
use super::folder::{self, Folder};
use super::known::Mark;
use super::notices::Notices;
use super::order::WriteOrder;
use super::pipes::{Feed, Source};
use super::pool::Pool;
use super::prepared::Prepared;
use super::receipt::Held;
use super::warm::{Target, Warmed};
use super::wire::{self, Fault, Isolation, Notice, Order, Placed, ProcessLimits, Script};
use super::{MARKER, Shared, sys};
use crate::sandbox::{Limit, RunSpec, SandboxError};

/// The environment variable with the folder of the run, where it has one on this machine.
pub(super) const FOLDER_MARKER: &str = "RUNMESH_RUN_FOLDER";

/// A script that has just been started.
#[derive(Debug)]
pub(super) struct Launched {
    // Dropped in this order: the processes end before their folder is removed.
    pub(super) sandbox: Prepared,
    pub(super) folder: Option<Folder>,
    pub(super) watch: Watch,
    pub(super) main_process: Option<u32>,
    /// Whether its interpreter had been started before, and waited for it.
    pub(super) prepared: bool,
    /// Processor time that the sandbox had used before, in user mode and in the kernel.
    pub(super) cpu_before: (Duration, Duration),
    pub(super) began: Instant,
    pub(super) at: SystemTime,
}

/// The node's ends of the standard streams.
#[derive(Debug)]
struct Streams {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// By what a script is watched. All of it is there before the script begins, which then can't be lost for want of a
/// descriptor.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) exit: AsyncFd<OwnedFd>,
    pub(super) notices: Notices,
    pub(super) stdout: Source,
    pub(super) stderr: Source,
    pub(super) stdin: Feed,
    pub(super) order: Option<WriteOrder>,
}

impl Watch {
    fn new(shared: &Shared, sandbox: &Prepared, streams: Streams, stdin: Bytes) -> io::Result<Watch> {
        Ok(Watch {
            exit: sys::watch(sandbox.first.exit_handle()?)?,
            notices: Notices::new(sandbox.first.control()?)?,
            // Before the first write.
            order: WriteOrder::of(&shared.queues, [&streams.stdout, &streams.stderr]),
            stdout: Source::new(streams.stdout)?,
            stderr: Source::new(streams.stderr)?,
            stdin: Feed::new(streams.stdin, stdin)?,
        })
    }
}

/// The name of a run, which no other has meanwhile.
pub(super) fn take_name(shared: &Shared, spec: &RunSpec) -> Result<Mark<String>, SandboxError> {
    shared.running.mark_new(folder::name_of(spec)?).ok_or_else(|| {
        let execution_id = spec.execution_id.clone();
        SandboxError::AlreadyRunning { execution_id, attempt: spec.attempt }
    })
}

/// Starts the script. Blocks until its program has been loaded. Must be called where the current runtime can be found.
pub(super) fn launch(shared: &Shared, pool: &Pool, spec: &RunSpec, held: &Held) -> Result<Launched, SandboxError> {
    let program = check(spec)?;
    let mut target = Target::of(shared, spec, held);
    let limits = CgroupLimits {
        memory_bytes: held.memory_bytes,
        processes: held.processes.map(|count| count.saturating_add(1)),
        cpu_millis: held.cpu_millis,
    };
    let _begun = pool.begun();
    loop {
        let mut sandbox = pool.take(target.as_ref(), &limits)?;
        // Before anything is limited and counted.
        let fits = |warmed: &mut Warmed| target.as_ref().is_some_and(|target| *target == warmed.target);
        let warmed = sandbox.warmed.take_if(fits);
        sandbox.discard()?;
        sandbox.limit(&limits)?;
        match attempt(shared, sandbox, warmed, spec, held, program) {
            Ok(launched) => return Ok(launched),
            Err(Failure::NotWoken(fault)) => {
                // Nothing of the script has run, and that sandbox is gone. Now without.
                tracing::warn!(program, step = fault.step, error = %fault.error(), "a prepared interpreter did not wake");
                target = None;
            }
            Err(Failure::Other(error)) => return Err(error),
        }
    }
}

/// Why a script could not be started in a sandbox.
enum Failure {
    /// The interpreter that waited there is no use.
    NotWoken(Fault),
    Other(SandboxError),
}

impl<E: Into<SandboxError>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Other(error.into())
    }
}

fn failed(step: &str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::Setup { step: step.to_owned(), source }
}

fn attempt(
    shared: &Shared,
    sandbox: Prepared,
    warmed: Option<Warmed>,
    spec: &RunSpec,
    held: &Held,
    program: &str,
) -> Result<Launched, Failure> {
    let folder = match shared.launcher.setup().isolation {
        Isolation::Plain => {
            let user = shared.users.is_some().then_some(sandbox.user.id);
            Some(Folder::create(&shared.folders, spec, user)?)
        }
        _ => None,
    };
    let cpu_before = sandbox.cgroup.as_ref().and_then(Cgroup::cpu_times).unwrap_or_default();
    let script = Box::new(script(shared, spec, held, program, folder.as_ref())?);
    let mut main_process = warmed.as_ref().and_then(|warmed| warmed.main_process);
    let prepared = warmed.is_some();
    let has_input = !spec.stdin.is_empty();
    // The script's ends of its streams, unless a process has them already.
    let (streams, theirs, sent) = match warmed {
        Some(warmed) => {
            let stdin = has_input.then_some(warmed.stdin);
            let streams = Streams { stdin, stdout: warmed.stdout, stderr: warmed.stderr };
            (streams, None, Order::Wake { script, has_input })
        }
        None => {
            let (streams, theirs) = pipes(shared, &sandbox, has_input)?;
            (streams, Some(theirs), Order::Run(script))
        }
    };
    let watch = Watch::new(shared, &sandbox, streams, spec.stdin.clone()).map_err(failed("watch the script"))?;
    let (began, at) = (Instant::now(), SystemTime::now());
    let hand_over = || -> io::Result<()> {
        let control = sandbox.first.control()?;
        let descriptors: Vec<_> = theirs.iter().flatten().map(|end| end.as_fd()).collect();
        wire::send(control, &sent, &descriptors)?;
        spec.files.iter().try_for_each(|file| wire::send_bytes(control, &file.content))
    };
    let handed_over = hand_over().map_err(failed("hand the script to its sandbox"));
    handed_over.map_err(|error| gone(&sandbox, false, error))?;
    drop(theirs);
    // From here on it may run, whether that is told or not. One that waited does not tell by itself.
    let mut may_run = prepared;
    loop {
        match sandbox.first.receive().map_err(|error| gone(&sandbox, may_run, error))? {
            (Notice::Here, beside) => {
                main_process = beside.sender;
                may_run = true;
            }
            (Notice::Started, _) => break,
            (Notice::NotStarted(fault), _) => return Err(start_error(Path::new(program), &fault).into()),
            (Notice::NotWoken(fault), _) => return Err(Failure::NotWoken(fault)),
            (other, _) => {
                let error = io::Error::other(format!("{other:?} came instead"));
                return Err(gone(&sandbox, may_run, failed("start the script")(error)).into());
            }
        }
    }
    Ok(Launched { sandbox, folder, watch, main_process, prepared, cpu_before, began, at })
}

/// What it means that a sandbox no longer answers.
fn gone(sandbox: &Prepared, may_run: bool, error: SandboxError) -> SandboxError {
    let evidence = sandbox.cgroup.as_ref().map(Cgroup::evidence).unwrap_or_default();
    if evidence.oom_kills.is_some_and(|kills| kills > 0) {
        return SandboxError::NoRoom { limit: Limit::Memory };
    }
    match error {
        SandboxError::Setup { step, source } if may_run => SandboxError::Lost { step, source },
        other => other,
    }
}

/// New pipes for the standard streams, and the script's ends of them. Without input, standard input is /dev/null.
fn pipes(shared: &Shared, sandbox: &Prepared, has_input: bool) -> Result<(Streams, [OwnedFd; 3]), SandboxError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("make a pipe")(error.into()));
    let (stdin, theirs_in) = if has_input {
        let (reading, writing) = pipe()?;
        hand_over_pipes(shared, sandbox, [&reading])?;
        (Some(writing), reading)
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        (None, null.map_err(|error| failed("open /dev/null")(error.into()))?)
    };
    let ((stdout, theirs_out), (stderr, theirs_err)) = (pipe()?, pipe()?);
    hand_over_pipes(shared, sandbox, [&theirs_out, &theirs_err])?;
    Ok((Streams { stdin, stdout, stderr }, [theirs_in, theirs_out, theirs_err]))
}

/// Gives pipes to the user that the script is, so that it can open them by name, such as /dev/stdout.
pub(super) fn hand_over_pipes<const N: usize>(
    shared: &Shared,
    sandbox: &Prepared,
    ends: [&OwnedFd; N],
) -> Result<(), SandboxError> {
    if let Some(owner) = shared.script_user(sandbox) {
        let owner = Some(rustix::fs::Uid::from_raw(owner));
        for end in ends {
            rustix::fs::fchown(end, owner, None).map_err(|error| failed("hand a pipe over")(error.into()))?;
        }
    }
    Ok(())
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
    let mut environment = basic_environment(program, work, temporary)?;
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

/// The variables that every script gets.
pub(super) fn basic_environment(
    program: &str,
    work: &Path,
    temporary: &Path,
) -> Result<Vec<(String, String)>, SandboxError> {
    let mut path = String::new();
    // First the interpreter's own folder, so that what a script starts by name is of the same version.
    if let Some(folder) =
        Path::new(program).parent().filter(|folder| folder.is_absolute() && *folder != Path::new("/usr/bin"))
    {
        path.push_str(&text(folder)?);
        path.push(':');
    }
    path.push_str("/usr/local/bin:/usr/bin:/bin");
    Ok(vec![
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), text(work)?),
        ("TMPDIR".to_owned(), text(temporary)?),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
    ])
}

fn text(path: &Path) -> Result<String, SandboxError> {
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(SandboxError::io("name in a message the folder", path)(ErrorKind::InvalidData.into())),
    }
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
        (step, Some(libc::ENOSPC)) if step.starts_with("write the file") => SandboxError::NoRoom { limit: Limit::Disk },
        _ => SandboxError::Setup { step: fault.step.clone(), source: error },
    }
}
