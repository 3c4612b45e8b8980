//! A mesh of separate processes on Kafka and MongoDB's protocol: the built binary, as `runmesh dev --real` runs it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{Client, binary, wait::PATIENCE};

/// How long all processes may take to be ready, or one that was killed: should a busy machine not have it ready within a minute, the
/// mesh tries that again.
const START: Duration = Duration::from_secs(240);

/// The servers under a mesh.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The address of the store, `mongodb://…`.
    pub store: String,
    /// The brokers, `host:port`, separated by commas.
    pub brokers: String,
}

impl Backends {
    /// The settings that name them.
    pub fn settings(&self) -> [(&'static str, String); 2] {
        [("RUNMESH_STORE__URI", self.store.clone()), ("RUNMESH_BUS__URI", format!("kafka://{}", self.brokers))]
    }
}

/// One process of the mesh.
#[derive(Debug, Clone, Deserialize)]
pub struct Member {
    /// Its name, such as `saga-1`.
    pub name: String,
    /// Its role, such as `saga`.
    pub role: String,
    /// Its process id.
    pub pid: u32,
    /// The address of its gRPC server.
    pub grpc: String,
}

#[derive(Deserialize)]
struct Ready {
    http: String,
    processes: Vec<Member>,
}

#[derive(Deserialize)]
struct Restarted {
    restarted: String,
    pid: u32,
}

/// A mesh that runs. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Processes {
    backends: Backends,
    settings: Vec<String>,
    data: TempDir,
    child: Child,
    http: String,
    members: Vec<Member>,
    restarts: Mutex<mpsc::Receiver<String>>,
}

impl Processes {
    /// Starts a mesh with these overrides of the configuration, and waits until every process is ready.
    ///
    /// # Errors
    /// When it ends instead, or is not ready in time; the error has what it wrote to standard error.
    pub async fn start(backends: Backends, settings: &[&str]) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("runmesh-test-").tempdir().context("a folder for the mesh")?;
        let log = File::create(data.path().join("stderr.log")).context("the mesh's log")?;
        let mut command = Command::new(binary()?);
        command.args(["dev", "--real", "--json", "--http", "127.0.0.1:0", "--data"]).arg(data.path().join("data"));
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.envs(backends.settings()).current_dir(data.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = child.stdout.take().context("the mesh's output")?;
        let (line_out, line_in) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                line_out.send(line).ok();
            }
        });
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut mesh = Self {
            backends,
            settings,
            data,
            child,
            http: String::new(),
            members: Vec::new(),
            restarts: Mutex::new(line_in),
        };
        let line = mesh.line(START)?;
        let ready: Ready = serde_json::from_str(&line).with_context(|| format!("the mesh said {line:?}"))?;
        (mesh.http, mesh.members) = (ready.http, ready.processes);
        Ok(mesh)
    }

    fn lines(&self) -> MutexGuard<'_, mpsc::Receiver<String>> {
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, patience: Duration) -> anyhow::Result<String> {
        let received = tokio::task::block_in_place(|| self.lines().recv_timeout(patience));
        received.map_err(|error| anyhow!("the mesh said nothing more ({error}):\n{}", self.log()))
    }

    /// The gateway's URL, without a path.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// The processes, as they are now.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The process of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn member(&self, name: &str) -> anyhow::Result<&Member> {
        self.members.iter().find(|member| member.name == name).with_context(|| format!("there is no {name}"))
    }

    /// A client of all instances of the services.
    ///
    /// # Errors
    /// When an address has no meaning.
    pub fn client(&self) -> anyhow::Result<Client> {
        let of = |role: &str| -> Vec<&str> {
            self.members.iter().filter(|member| member.role == role).map(|member| member.grpc.as_str()).collect()
        };
        Client::balanced(&of("execution"), &of("results"))
    }

    /// Ends a process by SIGKILL, and waits until it was started again.
    ///
    /// # Errors
    /// When it is not started again in time.
    pub async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        self.signal(name, Signal::KILL)?;
        loop {
            let line = self.line(START)?;
            let restarted: Restarted =
                serde_json::from_str(&line).with_context(|| format!("the mesh said {line:?}"))?;
            for member in &mut self.members {
                if member.name == restarted.restarted {
                    member.pid = restarted.pid;
                }
            }
            if restarted.restarted == name {
                return Ok(());
            }
        }
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        kill_process(pid(self.member(name)?.pid)?, signal).with_context(|| format!("a signal to {name}"))
    }

    /// Runs another command of the binary with the mesh's settings.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = tokio::process::Command::new(binary()?);
        command.args(arguments).envs(self.backends.settings()).current_dir(self.data.path()).stdin(Stdio::null());
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.output().await.context("starting the binary")
    }

    /// Compares the store with the topics and the groups' outcomes, once nothing is pending any more.
    ///
    /// # Errors
    /// When something was lost or is still pending, with what was found.
    pub async fn verify(&self) -> anyhow::Result<String> {
        let output = self.command(&["verify", "--wait", "90s"]).await?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "runmesh verify: {}\n{said}\nthe mesh:\n{}", output.status, self.log());
        Ok(said)
    }

    /// What the processes wrote to standard error: the end of it.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        let start = log.len().saturating_sub(24 << 10);
        String::from_utf8_lossy(&log[start..]).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.data.path().join("stderr.log")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        eprintln!("the mesh wrote to standard error:\n{}", self.log());
        // A stopped one hears nothing else.
        for member in &self.members {
            if let Ok(pid) = pid(member.pid) {
                kill_process(pid, Signal::CONT).ok();
            }
        }
        if let Ok(pid) = pid(self.child.id()) {
            kill_process(pid, Signal::TERM).ok();
        }
        let since = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn pid(id: u32) -> anyhow::Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).with_context(|| format!("{id} is no process id"))
}
