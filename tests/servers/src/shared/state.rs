//! What `servers up` leaves for others to find: `target/servers/state.json`.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::process::{answers, pid, ticks, wait};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Apache Kafka.
    Kafka,
    /// FerretDB, or whatever speaks MongoDB's protocol.
    MongoDb,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Kafka, Self::MongoDb];

    /// Its name in paths.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::MongoDb => "ferretdb",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "Kafka",
            Self::MongoDb => "FerretDB",
        })
    }
}

/// The servers that were started, whether they still run or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Apache Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Server>,
    /// FerretDB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mongodb: Option<Server>,
}

/// A server that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// What its clients are given: `host:port` for Kafka, `mongodb://…` for FerretDB.
    pub uri: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub pid: u32,
    /// When that process was started, in the kernel's ticks since its own start: with it a process is told from a later
    /// one of the same id.
    pub ticks: u64,
    /// When it was started.
    pub started: SystemTime,
    /// The folder with its data.
    pub folder: PathBuf,
    /// The file with its output.
    pub log: PathBuf,
    /// Whether it stays up when the tests that use it have ended.
    pub stays: bool,
}

impl State {
    /// Reads it. It is empty when nothing was started.
    ///
    /// # Errors
    /// When it can't be read or is not what [`State::write`] writes.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("state.json");
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged: remove it, and end what it names", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("can't read {}", file.display())),
        }
    }

    /// Writes it in one step, so that a reader sees the one before or this one.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let (file, new) = (folder.join("state.json"), folder.join("state.json.new"));
        let text = serde_json::to_string_pretty(self).context("the state as JSON")?;
        fs::write(&new, text).with_context(|| format!("can't write {}", new.display()))?;
        fs::rename(&new, &file).with_context(|| format!("can't replace {}", file.display()))
    }

    /// The server of this kind, if one was started.
    pub fn get(&self, kind: Kind) -> Option<&Server> {
        match kind {
            Kind::Kafka => self.kafka.as_ref(),
            Kind::MongoDb => self.mongodb.as_ref(),
        }
    }

    pub(crate) fn get_mut(&mut self, kind: Kind) -> Option<&mut Server> {
        match kind {
            Kind::Kafka => self.kafka.as_mut(),
            Kind::MongoDb => self.mongodb.as_mut(),
        }
    }

    pub(crate) fn set(&mut self, kind: Kind, server: Option<Server>) {
        match kind {
            Kind::Kafka => self.kafka = server,
            Kind::MongoDb => self.mongodb = server,
        }
    }
}

impl Server {
    /// Whether its process is there, and not merely another one of the same id.
    pub fn runs(&self) -> bool {
        // Its command line names its folder, wherever the ticks have started anew (another machine, a restart).
        ticks(self.pid) == Some(self.ticks) && command_line(self.pid).contains(&*self.folder.to_string_lossy())
    }

    /// Whether its process is there and accepts connections.
    pub fn serves(&self) -> bool {
        self.runs() && answers(self.address)
    }

    /// The memory that it has in use, in bytes. `None` when it does not run.
    pub fn memory(&self) -> Option<u64> {
        if !self.runs() {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }

    /// Asks it to end by SIGTERM, and ends it by SIGKILL when it does not within the time.
    pub(crate) fn end(&self, patience: Duration) -> anyhow::Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            if !self.runs() {
                return Ok(());
            }
            rustix::process::kill_process(pid(self.pid)?, signal).ok();
            if signal == Signal::TERM {
                // A stopped process does not hear it.
                rustix::process::kill_process(pid(self.pid)?, Signal::CONT).ok();
            }
            if wait(patience, || Ok((!self.runs()).then_some(()))).is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("process {} does not end, not even by SIGKILL", self.pid)
    }
}

fn command_line(id: u32) -> String {
    let parts = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&parts).replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn of(child: &std::process::Child, folder: &str) -> Server {
        Server {
            uri: String::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 9)),
            pid: child.id(),
            ticks: ticks(child.id()).unwrap(),
            started: SystemTime::UNIX_EPOCH,
            folder: folder.into(),
            log: PathBuf::new(),
            stays: false,
        }
    }

    #[test]
    fn a_process_is_known_by_its_start_and_its_folder_and_a_dead_one_is_none() -> anyhow::Result<()> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "echo; read _; exit", "/a/folder"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // Until then it may have no command line: the kernel lets its parent go on a little before that is there.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0])?;
        let server = of(&child, "/a/folder");
        assert!(server.runs());
        assert!(server.memory().is_some_and(|bytes| bytes > 4096));
        assert!(!Server { ticks: server.ticks + 1, ..server.clone() }.runs(), "another start");
        assert!(!Server { folder: "/another/folder".into(), ..server.clone() }.runs(), "another program");
        server.end(Duration::from_secs(20))?;
        assert!(!server.runs(), "what is left for its parent is not a process that runs");
        assert_eq!(server.memory(), None);
        child.wait()?;
        Ok(())
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() -> anyhow::Result<()> {
        let script = "trap '' TERM; echo; while :; do read _ || exit; done";
        let mut child = Command::new("/bin/sh")
            .args(["-c", script, "/a/folder"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)?;
        of(&child, "/a/folder").end(Duration::from_millis(200))?;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait()?), Some(9));
        Ok(())
    }

    #[test]
    fn the_state_is_read_as_it_was_written_and_is_empty_before() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(State::read(folder.path())?, State::default());
        let mut child = Command::new("/bin/sh").args(["-c", "read _"]).stdin(Stdio::piped()).spawn()?;
        let state = State { kafka: None, mongodb: Some(of(&child, "/a/folder")) };
        state.write(folder.path())?;
        assert_eq!(State::read(folder.path())?, state);
        fs::write(folder.path().join("state.json"), "{")?;
        assert!(State::read(folder.path()).unwrap_err().to_string().contains("state.json is damaged"));
        drop(child.stdin.take());
        child.wait()?;
        Ok(())
    }
}
