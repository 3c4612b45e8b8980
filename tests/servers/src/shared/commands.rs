//! `cargo xtask servers up | down | status`.

use std::{
    fmt,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;

use crate::{
    Installed, KafkaOptions, Kind, Server, State, install,
    kafka::{Cluster, Node, PORTS_PER_NODE},
    mongo_like::FerretDb,
    ports::Ports,
    process::{Process, ticks},
    shared::named,
};

/// How long a server may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);
/// How often a server is started with another port when its port was taken.
const TRIES: usize = 5;

/// The servers that the environment does not name: those that it names are somebody else's.
///
/// # Errors
/// When a variable is not what it has to be.
pub fn unnamed() -> anyhow::Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    for kind in Kind::ALL {
        if named(kind)?.is_none() {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

/// What `up` has found and done, one line per server.
#[derive(Debug)]
pub struct Outcome {
    /// The servers now.
    pub state: State,
    /// Those that were started by this call.
    pub started: Vec<Kind>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            let Some(server) = self.state.get(kind) else { continue };
            let what = if self.started.contains(&kind) { "started" } else { "runs already" };
            writeln!(f, "{kind} {what}: {}", server.uri)?;
        }
        Ok(())
    }
}

/// Installs, and starts those of these servers that do not run, so that they go on after this process. A server that has
/// died is started again on its data and its port where that is possible, and else anew.
///
/// # Errors
/// When one can't be installed or does not get ready.
pub fn up(kinds: &[Kind]) -> anyhow::Result<Outcome> {
    start(&crate::folder(), kinds, true)
}

/// As [`up`]. They stay up when tests have ended if they were ever started to stay.
pub(crate) fn start(folder: &Path, kinds: &[Kind], stay: bool) -> anyhow::Result<Outcome> {
    let _lock = lock(folder)?;
    let mut state = State::read(folder)?;
    let mut started = Vec::new();
    for &kind in kinds {
        if let Some(server) = state.get_mut(kind).filter(|server| server.serves()) {
            if stay && !server.stays {
                server.stays = true;
                state.write(folder)?;
            }
            continue;
        }
        let stays = stay || state.get(kind).is_some_and(|dead| dead.stays);
        let program = Program { kind, installed: install()?, shared: folder.to_owned(), stays };
        match state.get(kind).cloned() {
            Some(dead) => program.revive(&dead, &mut state)?,
            None => program.start(&mut state)?,
        }
        started.push(kind);
    }
    Ok(Outcome { state, started })
}

/// Ends those of these servers that [`up`] has started, and removes their data. Returns those that still ran.
///
/// # Errors
/// When one does not end.
pub fn down(kinds: &[Kind]) -> anyhow::Result<Vec<Kind>> {
    end(&crate::folder(), kinds)
}

/// As [`down`].
pub(crate) fn end(folder: &Path, kinds: &[Kind]) -> anyhow::Result<Vec<Kind>> {
    let _lock = lock(folder)?;
    let mut state = State::read(folder)?;
    let mut ended = Vec::new();
    for &kind in kinds {
        let Some(server) = state.get(kind) else { continue };
        if server.runs() {
            ended.push(kind);
        }
        server.end(GRACE).with_context(|| format!("ending {kind}"))?;
        remove(&server.folder)?;
        state.set(kind, None);
        state.write(folder)?;
    }
    Ok(ended)
}

/// The servers that were started; each says whether it [serves](Server::serves).
///
/// # Errors
/// When the state can't be read.
pub fn status() -> anyhow::Result<State> {
    State::read(&crate::folder())
}

/// One of these commands at a time.
fn lock(folder: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let lock = File::create(folder.join("lock")).context("the lock of target/servers")?;
    lock.lock().context("the lock of target/servers")?;
    Ok(lock)
}

/// A shared server that is about to start.
struct Program {
    kind: Kind,
    installed: Installed,
    /// Where all of them are.
    shared: PathBuf,
    stays: bool,
}

impl Program {
    /// Starts a server that has died, or does not answer any more, on what is left of it.
    fn revive(&self, dead: &Server, state: &mut State) -> anyhow::Result<()> {
        dead.end(GRACE).with_context(|| format!("ending the {} that does not answer", self.kind))?;
        if dead.folder.exists() {
            match self.launch(dead.address, state) {
                Ok(()) => return Ok(()),
                Err(failed) => eprintln!("servers: {:#}\nservers: {} is started anew", failed.error, self.kind),
            }
        }
        self.start(state)
    }

    /// Starts one with nothing in it.
    fn start(&self, state: &mut State) -> anyhow::Result<()> {
        let mut tries = 1;
        loop {
            remove(&self.folder())?;
            fs::create_dir_all(self.folder()).with_context(|| format!("can't make {}", self.folder().display()))?;
            if self.log().exists() {
                fs::remove_file(self.log()).with_context(|| format!("can't remove {}", self.log().display()))?;
            }
            // They are free again when this returns, and taken by the server.
            let ports = Ports::take(PORTS_PER_NODE)?;
            if self.kind == Kind::Kafka {
                self.node().format(&Cluster::new(&KafkaOptions::default(), &ports))?;
            }
            let address = ports.address(0);
            match self.launch(address, state) {
                Ok(()) => return Ok(()),
                Err(failed) if failed.lost_its_port && tries < TRIES => tries += 1,
                Err(failed) => return Err(failed.error),
            }
        }
    }

    /// Starts its process on what is in its folder.
    fn launch(&self, address: SocketAddr, state: &mut State) -> Result<(), Failed> {
        let (name, folder, log) = (self.kind.to_string(), self.folder(), self.log());
        let (command, ready, uri) = match self.kind {
            Kind::Kafka => (self.node().command(), Node::READY, address.to_string()),
            Kind::MongoDb => {
                let ferretdb = self.ferretdb(address);
                (ferretdb.command(), FerretDb::READY, ferretdb.uri())
            }
        };
        let mut process = Process::start_detached(&name, &command, &log)?;
        let ticks = ticks(process.id()).with_context(|| format!("{name} has ended"))?;
        let (pid, started) = (process.id(), SystemTime::now());
        // Before it is ready: if this is interrupted now, the next command finds the process.
        state.set(self.kind, Some(Server { uri, address, pid, ticks, started, folder, log, stays: self.stays }));
        state.write(&self.shared)?;
        if let Err(error) = process.wait_ready(ready, address) {
            return Err(Failed { lost_its_port: process.lost_its_port(), error });
        }
        process.let_go();
        Ok(())
    }

    fn node(&self) -> Node {
        Node::new(&self.installed, 1, self.folder(), Node::LARGE)
    }

    fn ferretdb(&self, address: SocketAddr) -> FerretDb {
        FerretDb { program: self.installed.ferretdb.clone(), folder: self.folder(), address }
    }

    fn folder(&self) -> PathBuf {
        self.shared.join(self.kind.short())
    }

    fn log(&self) -> PathBuf {
        self.shared.join(format!("{}.log", self.kind.short()))
    }
}

/// A start that failed.
struct Failed {
    error: anyhow::Error,
    /// Another port may help.
    lost_its_port: bool,
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self { error, lost_its_port: false }
    }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("can't remove {}", folder.display()))?;
    }
    Ok(())
}
