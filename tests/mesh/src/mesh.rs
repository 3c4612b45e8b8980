//! A mesh in one process of its own: the built binary, as `runmesh dev` runs it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Backends, Client, backend::Lent, wait::PATIENCE};

/// How a mesh is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Overrides of the configuration, each `key=value`.
    pub settings: Vec<String>,
    /// A file of settings, for those that are no single values.
    pub file: Option<String>,
    /// The address of gRPC. `None`: a free port of the loopback address.
    pub grpc: Option<String>,
    /// The address of HTTP. `None`: as above.
    pub http: Option<String>,
    /// The size in bytes of a file system of its own for the data folder. `None`: the folder is on the test's own.
    pub disk: Option<u64>,
    /// Whether it stands on the embedded backends, also where the suite runs on servers: for tests that change its files.
    pub embedded: bool,
}

impl Options {
    /// The defaults with these overrides.
    pub fn set<'a>(settings: impl IntoIterator<Item = &'a str>) -> Self {
        Self { settings: settings.into_iter().map(str::to_owned).collect(), ..Self::default() }
    }
}

/// A mesh that runs, and its data folder. Dropping it ends the process and removes the folder.
#[derive(Debug)]
pub struct Mesh {
    options: Options,
    data: TempDir,
    running: Option<Running>,
    // After the process, which uses them.
    servers: Option<Lent>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    grpc: String,
    http: String,
    health: Option<String>,
}

/// The built binary, beside the running test.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("where this test is")?;
    let folder = test.parent().and_then(Path::parent).context("the test is not in a target folder")?;
    let binary = folder.join("runmesh");
    ensure!(
        binary.is_file(),
        "{} is missing: run the tests by `cargo xtask test`, or `cargo build -p runmesh-node` first",
        binary.display()
    );
    Ok(binary)
}

impl Mesh {
    /// Starts a mesh with the default configuration, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead, or is not ready in time; the error has what it wrote to standard error.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Options::default()).await
    }

    /// Starts a mesh, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub async fn start_with(options: Options) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("runmesh-test-").tempdir().context("a folder for the mesh")?;
        // A test that names a store or a bus of its own, or a disk for them, has them.
        let named = options.settings.iter().any(|entry| entry.starts_with("bus.uri") || entry.starts_with("store.uri"));
        let own = named || options.disk.is_some() || options.embedded;
        let servers = if own { None } else { Lent::of_suite()? };
        let mut mesh = Self { options, data, running: None, servers };
        mesh.restart().await?;
        Ok(mesh)
    }

    /// Has it be started the next time with this file of settings.
    pub fn set_file(&mut self, file: Option<&str>) {
        self.options.file = file.map(str::to_owned);
    }

    /// Starts it again on the same data folder. It must not run.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "the mesh runs already");
        let log = File::options().create(true).append(true).open(self.log_file()).context("the mesh's log")?;
        let loopback = || "127.0.0.1:0".to_owned();
        let mut command = match self.options.disk {
            None => Command::new(binary()?),
            Some(size) => with_disk(&self.data_folder(), size)?,
        };
        command.args(["dev", "--json", "--data"]).arg(self.data_folder());
        command.arg("--grpc").arg(self.options.grpc.clone().unwrap_or_else(loopback));
        command.arg("--http").arg(self.options.http.clone().unwrap_or_else(loopback));
        if let Some(text) = &self.options.file {
            let file = self.data.path().join("runmesh.toml");
            fs::write(&file, text).context("the file of settings")?;
            command.arg("--config").arg(file);
        }
        for setting in &self.options.settings {
            command.args(["--set", setting]);
        }
        if let Some(servers) = &self.servers {
            command.envs(servers.settings());
        }
        command.current_dir(self.data.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("starting the mesh")?;
        let stdout = child.stdout.take().context("the mesh's output")?;
        let (line_out, line_in) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads on after the first line, so that the mesh never waits for a reader.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                line_out.send(line).ok();
            }
        });
        // From here on a failure ends the process: `self` has it.
        self.running = Some(Running { child, grpc: String::new(), http: String::new(), health: None });
        let waited = tokio::task::spawn_blocking(move || line_in.recv_timeout(PATIENCE)).await?;
        let line =
            waited.map_err(|error| anyhow!("the mesh did not say that it is ready ({error}):\n{}", self.log()))?;
        let ready: serde_json::Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
        let address = |key: &str| ready[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {line}"));
        let (grpc, http) = (address("grpc")?, address("http")?);
        if let Some(running) = &mut self.running {
            running.grpc = grpc;
            running.http = http;
            running.health = ready["health"].as_str().map(str::to_owned);
        }
        Ok(())
    }

    /// The address of gRPC, as `host:port`.
    ///
    /// # Errors
    /// When the mesh does not run.
    pub fn grpc(&self) -> anyhow::Result<&str> {
        self.running.as_ref().map(|running| running.grpc.as_str()).context("the mesh does not run")
    }

    /// The gateway's URL, without a path.
    ///
    /// # Errors
    /// When the mesh does not run.
    pub fn http(&self) -> anyhow::Result<&str> {
        self.running.as_ref().map(|running| running.http.as_str()).context("the mesh does not run")
    }

    /// The address of the listener for health alone.
    ///
    /// # Errors
    /// When the mesh does not run, or has none.
    pub fn health(&self) -> anyhow::Result<&str> {
        self.running.as_ref().and_then(|running| running.health.as_deref()).context("no listener for health")
    }

    /// A client with a connection of its own.
    ///
    /// # Errors
    /// When it can't connect.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.grpc()?).await
    }

    /// The servers that the mesh stands on. `None`: its data folder has everything.
    pub fn backends(&self) -> Option<&Backends> {
        self.servers.as_deref()
    }

    /// The data folder as the mesh's own process sees it, which may have mounted a file system there.
    ///
    /// # Errors
    /// When the mesh does not run.
    pub fn data_folder_inside(&self) -> anyhow::Result<PathBuf> {
        let running = self.running.as_ref().context("the mesh does not run")?;
        let folder = self.data_folder();
        let relative = folder.strip_prefix("/").context("the data folder is relative")?;
        Ok(Path::new("/proc").join(running.child.id().to_string()).join("root").join(relative))
    }

    /// Where the mesh keeps its data.
    pub fn data_folder(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// What the mesh wrote to standard error, over all its starts: the end of it.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        let start = log.len().saturating_sub(16 << 10);
        String::from_utf8_lossy(&log[start..]).into_owned()
    }

    /// Ends it by SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the mesh does not run")?;
        running.child.kill().context("killing the mesh")?;
        running.child.wait().context("waiting for the killed mesh")?;
        Ok(())
    }

    /// Asks it to end by SIGTERM.
    ///
    /// # Errors
    /// When it does not run.
    pub fn ask_to_end(&self) -> anyhow::Result<()> {
        let running = self.running.as_ref().context("the mesh does not run")?;
        kill_process(pid(&running.child)?, Signal::TERM).context("SIGTERM to the mesh")
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it has not within the time; it is killed then.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let running = self.running.as_mut().context("the mesh does not run")?;
        let since = Instant::now();
        loop {
            if let Some(status) = running.child.try_wait().context("waiting for the mesh")? {
                self.running = None;
                return Ok(status);
            }
            if since.elapsed() > within {
                let log = self.log();
                self.kill()?;
                bail!("the mesh did not end within {within:?}:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it by SIGTERM and waits for a clean end.
    ///
    /// # Errors
    /// When it ends otherwise than with exit code 0, or not within [`PATIENCE`].
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.ask_to_end()?;
        let status = self.ended(PATIENCE).await?;
        ensure!(status.success(), "the mesh ended with {status}:\n{}", self.log());
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.data.path().join("stderr.log")
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // The harness shows it for tests that fail, by a panic or by an error.
        let log = self.log();
        if !log.is_empty() {
            eprintln!("the mesh wrote to standard error:\n{log}");
        }
        let Some(mut running) = self.running.take() else { return };
        // Politely at first, so that it ends its scripts.
        if let Ok(pid) = pid(&running.child) {
            kill_process(pid, Signal::TERM).ok();
        }
        let since = Instant::now();
        while matches!(running.child.try_wait(), Ok(None)) && since.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.child.kill().ok();
        running.child.wait().ok();
    }
}

/// The binary in a mount namespace of its own, with a file system of this size at its data folder.
fn with_disk(folder: &Path, size: u64) -> anyhow::Result<Command> {
    fs::create_dir_all(folder).context("the data folder")?;
    let mut command = Command::new("unshare");
    // An ordinary user may mount in a user namespace of its own.
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg(r#"mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@""#);
    command.arg("sh").arg(size.to_string()).arg(folder).arg(binary()?);
    Ok(command)
}

fn pid(child: &Child) -> anyhow::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the mesh's process id")
}
