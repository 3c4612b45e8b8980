//! Processes of servers: started, watched, signalled, ended.

use std::{
    fs,
    fs::File,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a server may take to get ready or to end. Generous, since it only matters when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Becomes the server, and leaves a process behind that waits for the end of the pipe which the test holds. The kernel
/// closes it however the test ends; then the server is killed, also a stopped one, and its folder removed. (A group with a
/// stopped process that loses its parent is sent SIGHUP by the kernel.)
const GUARDED: &str = r#"
exec 3<&0 </dev/null
(
    trap '' HUP
    cat <&3 >/dev/null
    kill -KILL $$
    left=200
    while kill -0 $$ 2>/dev/null && [ $((left -= 1)) -gt 0 ]; do sleep 0.05; done
    rm -rf -- "$0"
) >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"#;

/// A server that ends with this value, or with the process that has it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: Log,
}

impl Process {
    /// Starts a program in a process group of its own, with its output appended to the log.
    ///
    /// `folder`: what is removed when this process dies without having dropped the value.
    pub(crate) fn start(name: &str, program: &Command, folder: &Path, log: &Path) -> anyhow::Result<Self> {
        let log = Log::here(log)?;
        let (out, err) = log.writers()?;
        let mut guarded = Command::new("/bin/sh");
        guarded.arg("-c").arg(GUARDED).arg(folder).arg(program.get_program()).args(program.get_args());
        let child = guarded
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Starts a program in a session of its own, so that it may outlive this process and its terminal. It ends with the
    /// value all the same, until it is [let go](Process::let_go): a start that fails leaves nothing behind.
    pub(crate) fn start_detached(name: &str, program: &Command, log: &Path) -> anyhow::Result<Self> {
        let log = Log::here(log)?;
        let (out, err) = log.writers()?;
        let child = Command::new("setsid")
            .arg(program.get_program())
            .args(program.get_args())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("can't start {name} by `setsid`"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Lets it run on.
    pub(crate) fn let_go(self) {
        // Not dropped, since that would end it.
        std::mem::forget(self);
    }

    /// Waits until it has written this text since its start, and accepts connections.
    pub(crate) fn wait_ready(&mut self, line: &str, address: SocketAddr) -> anyhow::Result<()> {
        let ready = wait(PATIENCE, || {
            if let Some(status) = self.child.try_wait().with_context(|| format!("watching {}", self.name))? {
                bail!("it ended with {status}");
            }
            Ok((self.log.since_start().contains(line) && answers(address)).then_some(()))
        });
        ready.with_context(|| format!("{} is not ready; its log ends:\n{}", self.name, self.log.end()))
    }

    /// Whether the log says that its address is in use.
    pub(crate) fn lost_its_port(&self) -> bool {
        let said = self.log.since_start();
        ["Address already in use", "address already in use", "BindException"].iter().any(|text| said.contains(text))
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the server alone.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(pid(self.child.id())?, signal).with_context(|| format!("a signal to {}", self.name))
    }

    /// Stops it where it stands, and waits until each of its threads has: the signal itself waits for nobody.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        wait(PATIENCE, || Ok(self.is_stopped().then_some(()))).with_context(|| format!("{} does not stop", self.name))
    }

    fn is_stopped(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return false };
        threads.filter_map(Result::ok).all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'))
        })
    }

    /// Ends it by SIGKILL and waits.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.end()
    }

    /// Ends it by SIGTERM and waits.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        // A stopped process does not hear it.
        self.signal(Signal::CONT)?;
        wait(PATIENCE, || Ok(self.child.try_wait()?))
            .with_context(|| format!("{} does not end; its log ends:\n{}", self.name, self.log.end()))?;
        self.end()
    }

    /// Kills the whole group, the waiting process with it. It is there as long as the child was not waited for.
    fn end(&mut self) -> anyhow::Result<()> {
        kill_process_group(pid(self.child.id())?, Signal::KILL).ok();
        self.child.wait().with_context(|| format!("waiting for the killed {}", self.name))?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end().ok();
    }
}

/// The file that has a server's output over all its starts.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// Where this start begins, in bytes.
    start: u64,
}

impl Log {
    fn here(path: &Path) -> anyhow::Result<Self> {
        let start = fs::metadata(path).map_or(0, |metadata| metadata.len());
        Ok(Self { path: path.to_owned(), start })
    }

    fn writers(&self) -> anyhow::Result<(File, File)> {
        let out = File::options().create(true).append(true).open(&self.path);
        let out = out.with_context(|| format!("can't write {}", self.path.display()))?;
        let err = out.try_clone().with_context(|| format!("can't write {}", self.path.display()))?;
        Ok((out, err))
    }

    fn since_start(&self) -> String {
        let all = fs::read(&self.path).unwrap_or_default();
        let start = usize::try_from(self.start).unwrap_or(usize::MAX).min(all.len());
        String::from_utf8_lossy(&all[start..]).into_owned()
    }

    fn end(&self) -> String {
        let said = self.since_start();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Whether something accepts connections there.
pub(crate) fn answers(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

/// Tries again until there is a value.
pub(crate) fn wait<T>(patience: Duration, mut attempt: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let since = Instant::now();
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if since.elapsed() > patience {
            bail!("waited {patience:?} in vain");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process id as the kernel's calls take it.
pub(crate) fn pid(id: u32) -> anyhow::Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).with_context(|| format!("{id} is no process id"))
}

/// When a process was started, in ticks. `None` when there is none, or only what is left of it for its parent.
pub(crate) fn ticks(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may have any character.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    match *fields.first()? {
        "Z" | "X" => None,
        _ => fields.get(19)?.parse().ok(),
    }
}
