//! A private server of MongoDB's protocol.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{install, ports::Ports, private::private_folder, process::Process};

/// FerretDB behind its front, until this is dropped. It is not MongoDB: docs/testing.md says in what it differs.
#[derive(Debug)]
pub struct MongoLike {
    ferretdb: FerretDb,
    running: Option<Process>,
    _ports: Ports,
    folder: TempDir,
}

impl MongoLike {
    /// Starts one with an empty database, and waits until it serves.
    ///
    /// # Errors
    /// When it can't be installed or does not get ready; the error has the end of its log.
    pub fn start() -> anyhow::Result<Self> {
        let program = install()?.ferretdb;
        let folder = private_folder("mongodb")?;
        let ports = Ports::take(1)?;
        let ferretdb = FerretDb { program, folder: folder.path().to_owned(), address: ports.address(0) };
        let mut server = Self { ferretdb, running: None, _ports: ports, folder };
        server.start_again()?;
        Ok(server)
    }

    /// What a client connects to: `mongodb://…`, without a database.
    pub fn uri(&self) -> String {
        self.ferretdb.uri()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.ferretdb.address
    }

    /// The folder that has its data and its log (`ferretdb.log`).
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running()?.id())
    }

    /// Ends it by SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.running.take().context("FerretDB does not run")?.kill()
    }

    /// Ends it by SIGTERM and waits.
    ///
    /// # Errors
    /// When it does not run, or does not end within a minute.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.running.take().context("FerretDB does not run")?.stop()
    }

    /// Starts it again on its data and its port, and waits until it serves.
    ///
    /// # Errors
    /// When it runs already, or does not get ready; the error has the end of its log.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "FerretDB runs already");
        let started = Process::start("FerretDB", &self.ferretdb.command(), self.folder.path(), &self.ferretdb.log())?;
        self.running.insert(started).wait_ready(FerretDb::READY, self.ferretdb.address)
    }

    /// Stops its process where it stands, by SIGSTOP: it holds its connections and says nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.running()?.pause()
    }

    /// Lets it go on after [`MongoLike::pause`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    fn running(&self) -> anyhow::Result<&Process> {
        self.running.as_ref().context("FerretDB does not run")
    }
}

impl Drop for MongoLike {
    fn drop(&mut self) {
        // Before its folder goes.
        self.running = None;
    }
}

/// How FerretDB is started.
#[derive(Debug)]
pub(crate) struct FerretDb {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) address: SocketAddr,
}

impl FerretDb {
    /// What it prints when it serves.
    pub(crate) const READY: &'static str = "ready on ";

    /// The command that is the server.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-listen").arg(self.address.to_string()).arg("-state").arg(self.folder.join("data"));
        command
    }

    /// The file that has its output.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("ferretdb.log")
    }

    /// What a client connects to. It is one server, and no replica set, so that drivers must not retry writes, which needs
    /// transactions' numbers.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true&retryWrites=false", self.address)
    }
}
