//! From what is to be run to a script that runs.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

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
use super::{MARKER, Shared, blocking, sys};
use crate::sandbox::{Limit, RunSpec, SandboxError};

/// The environment variable with the folder of the run, where it has one on this machine.
pub(super) const FOLDER_MARKER: &str = "RUNMESH_RUN_FOLDER";

/// How much the files of a script may have to be handed over at once, in bytes: the socket takes it without a wait.
const QUICK: usize = 32 << 10;
/// How long a program may take to be loaded.
const PATIENCE: Duration = Duration::from_secs(20);

/// A script that has just been started.
#[derive(Debug)]
pub(super) struct Launched {
    // Dropped in this order: the processes end before their folder is removed, and that before another has the name.
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
    pub(super) name: Arc<Mark<String>>,
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
fn take_name(shared: &Shared, spec: &RunSpec) -> Result<Mark<String>, SandboxError> {
    shared.running.mark_new(folder::name_of(spec)?).ok_or_else(|| {
        let execution_id = spec.execution_id.clone();
        SandboxError::AlreadyRunning { execution_id, attempt: spec.attempt }
    })
}

/// A script that is to be started.
pub(super) struct Start {
    shared: Arc<Shared>,
    name: Arc<Mark<String>>,
    pub(super) spec: RunSpec,
    pub(super) held: Held,
    limits: CgroupLimits,
    /// The interpreter that may be prepared for it.
    target: Option<Target>,
}

impl Start {
    pub(super) fn new(shared: &Arc<Shared>, spec: RunSpec, held: Held) -> Result<Start, SandboxError> {
        check(&spec)?;
        let name = Arc::new(take_name(shared, &spec)?);
        let target = Target::of(shared, &spec, &held);
        let limits = CgroupLimits {
            memory_bytes: held.memory_bytes,
            processes: held.processes.map(|count| count.saturating_add(1)),
            cpu_millis: held.cpu_millis,
        };
        Ok(Start { shared: Arc::clone(shared), name, spec, held, limits, target })
    }

    /// Starts the script. Returns once its program has been loaded. Where it is not, nothing is left of it.
    pub(super) async fn launch(mut self, pool: &Pool) -> Result<(Launched, Start), SandboxError> {
        let _begun = pool.begun();
        loop {
            let taken = pool.take(self.target.as_ref(), &self.limits);
            let handed_over = if self.is_quick(taken.as_ref()) {
                self.hand_over(taken)?
            } else {
                // If this future is dropped here, so is what the closure returns.
                let (handed_over, back) = blocking(move || (self.hand_over(taken), self)).await?;
                self = back;
                handed_over?
            };
            let mut launched = Aside(Some(handed_over));
            let failure = match launched.loaded(&self.spec).await {
                Ok(launched) => return Ok((launched, self)),
                Err(failure) => failure,
            };
            let useless = launched.0.take();
            blocking(move || drop(useless)).await?;
            match failure {
                Failure::NotWoken(fault) => {
                    // Nothing of the script has run, and that sandbox is of no use. Now without.
                    let program = self.spec.command.first();
                    tracing::warn!(program, step = fault.step, error = %fault.error(), "a prepared interpreter did not wake");
                    self.target = None;
                }
                Failure::Other(error) => return Err(error),
            }
        }
    }

    /// Whether [`Self::hand_over`] has nothing to wait for.
    fn is_quick(&self, sandbox: Option<&Prepared>) -> bool {
        let size: usize = self.spec.files.iter().map(|file| file.content.len()).sum();
        let is_plain = self.shared.launcher.setup().isolation == Isolation::Plain;
        let fits = |sandbox: &Prepared| sandbox.warmed.is_none() || self.fits(sandbox);
        size <= QUICK && !is_plain && sandbox.is_some_and(fits)
    }

    /// Whether the interpreter that waits there is the one for this script.
    fn fits(&self, sandbox: &Prepared) -> bool {
        self.target.is_some() && sandbox.warmed.as_ref().map(|warmed| &warmed.target) == self.target.as_ref()
    }

    /// Hands the script to this sandbox, or to a new one.
    fn hand_over(&self, sandbox: Option<Prepared>) -> Result<Launched, SandboxError> {
        let mut sandbox = sandbox.map_or_else(|| Prepared::make(&self.shared), Ok)?;
        // Before anything is limited and counted.
        let warmed = if self.fits(&sandbox) { sandbox.warmed.take() } else { None };
        sandbox.discard()?;
        sandbox.limit(&self.limits)?;
        send_to(self, sandbox, warmed)
    }
}

/// A script of which it is not known yet whether its program has been loaded. If that is never known, its sandbox is ended
/// where that may block.
struct Aside(Option<Launched>);

impl Aside {
    async fn loaded(&mut self, spec: &RunSpec) -> Result<Launched, Failure> {
        let Some(launched) = &mut self.0 else { return Err(SandboxError::ShuttingDown.into()) };
        launched.loaded(spec).await?;
        self.0.take().ok_or_else(|| SandboxError::ShuttingDown.into())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(launched) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(launched));
        }
    }
}

impl Launched {
    /// Waits until the program has been loaded.
    async fn loaded(&mut self, spec: &RunSpec) -> Result<(), Failure> {
        // From here on it may run, whether that is told or not. One that waited does not tell by itself.
        let mut may_run = self.prepared;
        loop {
            let heard = timeout(PATIENCE, self.watch.notices.next_with()).await;
            let heard = heard.unwrap_or_else(|late| Err(late.into()));
            let heard = heard.and_then(|heard| heard.ok_or_else(|| ErrorKind::UnexpectedEof.into()));
            match heard.map_err(|error| gone(&self.sandbox, may_run, failed("hear from the sandbox")(error)))? {
                (Notice::Here, beside) => {
                    self.main_process = beside.sender;
                    may_run = true;
                }
                (Notice::Started, _) => return Ok(()),
                (Notice::NotStarted(fault), _) => {
                    let program = spec.command.first().map_or("", String::as_str);
                    return Err(start_error(Path::new(program), &fault).into());
                }
                (Notice::NotWoken(fault), _) => return Err(Failure::NotWoken(fault)),
                (other, _) => {
                    let error = failed("start the script")(io::Error::other(format!("{other:?} came instead")));
                    return Err(gone(&self.sandbox, may_run, error).into());
                }
            }
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

/// Hands the script to its sandbox. Must be called where the current runtime can be found.
fn send_to(start: &Start, sandbox: Prepared, warmed: Option<Warmed>) -> Result<Launched, SandboxError> {
    let Start { shared, spec, held, .. } = start;
    let folder = match shared.launcher.setup().isolation {
        Isolation::Plain => {
            let user = shared.users.is_some().then_some(sandbox.user.id);
            Some(Folder::create(&shared.folders, spec, user)?)
        }
        _ => None,
    };
    let cpu_before = sandbox.cgroup.as_ref().and_then(Cgroup::cpu_times).unwrap_or_default();
    let script = Box::new(script(shared, spec, held, folder.as_ref())?);
    let main_process = warmed.as_ref().and_then(|warmed| warmed.main_process);
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
    let send = || -> io::Result<()> {
        let control = sandbox.first.control()?;
        let descriptors: Vec<_> = theirs.iter().flatten().map(|end| end.as_fd()).collect();
        wire::send(control, &sent, &descriptors)?;
        spec.files.iter().try_for_each(|file| wire::send_bytes(control, &file.content))
    };
    let sent = send().map_err(failed("hand the script to its sandbox"));
    sent.map_err(|error| gone(&sandbox, false, error))?;
    let name = Arc::clone(&start.name);
    Ok(Launched { sandbox, folder, watch, main_process, prepared, cpu_before, began, at, name })
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

/// Refuses what can't be run.
fn check(spec: &RunSpec) -> Result<(), SandboxError> {
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
    folder::check_paths(&spec.files)
}

fn script(shared: &Shared, spec: &RunSpec, held: &Held, folder: Option<&Folder>) -> Result<Script, SandboxError> {
    let program = spec.command.first().map_or("", String::as_str);
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
