//! One node: its folder, its settings, its process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{Installed, kafka::Cluster, process::Process};

/// A node of a cluster, running or not.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: usize,
    libraries: PathBuf,
    folder: PathBuf,
    /// How much memory its heap may take.
    heap: &'static str,
    /// Whether it writes the archive of classes when it ends.
    records: bool,
}

impl Node {
    /// What it logs when it serves.
    pub(crate) const READY: &'static str = "Kafka Server started";

    /// The heap of a node that is not alone.
    pub(crate) const SMALL: &'static str = "-Xmx384m";
    /// The heap of a node that is alone.
    pub(crate) const LARGE: &'static str = "-Xmx512m";

    pub(crate) fn new(installed: &Installed, id: usize, folder: PathBuf, heap: &'static str) -> Self {
        Self { id, libraries: installed.kafka.clone(), folder, heap, records: false }
    }

    /// One that writes the archive of classes when it ends by itself.
    pub(crate) fn recording(self) -> Self {
        Self { records: true, ..self }
    }

    /// Writes its settings and makes its storage, empty.
    pub(crate) fn format(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let data = self.data();
        fs::create_dir_all(self.temporary()).with_context(|| format!("can't make {}", self.folder.display()))?;
        cluster.write_keys(&self.folder)?;
        let settings = cluster.properties(self.id, &self.folder, &data);
        fs::write(self.settings(), settings).with_context(|| format!("can't write {}", self.settings().display()))?;
        let mut format = self.java("-Xmx128m");
        format.arg("kafka.tools.StorageTool").args(["format", "--cluster-id", &cluster.id, "--config"]);
        format.arg(self.settings()).args(cluster.format_arguments());
        let output = format.stdin(Stdio::null()).output().context("can't start java")?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success(),
            "the storage of Kafka's node {} can't be made: {}",
            self.id,
            String::from_utf8_lossy(&said)
        );
        Ok(())
    }

    /// Starts it; it is not ready yet. `passing`: what is removed when the test dies.
    pub(crate) fn start(&self, passing: &Path) -> anyhow::Result<Process> {
        Process::start(&format!("Kafka's node {}", self.id), &self.command(), passing, &self.log())
    }

    /// The command that is the broker.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.java(self.heap);
        if self.records {
            command.arg(format!("-XX:ArchiveClassesAtExit={}", archive(&self.libraries).display()));
        }
        command.arg("kafka.Kafka").arg(self.settings());
        command
    }

    /// The file that has its output.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    fn java(&self, heap: &str) -> Command {
        let mut command = Command::new("java");
        // Quick to start and small, rather than fast after an hour. No file outside its folder: neither the JVM's own
        // (UsePerfData) nor the native libraries that its codecs unpack.
        command.args([heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]);
        command.arg(format!("-Djava.io.tmpdir={}", self.temporary().display()));
        command.arg(format!("-Dlog4j2.configurationFile={}", log_settings().display()));
        let archive = archive(&self.libraries);
        if archive.exists() && !self.records {
            // One that another Java has made is ignored.
            command.arg(format!("-XX:SharedArchiveFile={}", archive.display()));
        }
        command.arg("-cp").arg(self.libraries.join("*"));
        command
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("server.properties")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn temporary(&self) -> PathBuf {
        self.folder.join("tmp")
    }
}

/// The file with Kafka's classes as Java has them in memory: with it a node starts with half the work.
pub(crate) fn archive(libraries: &Path) -> PathBuf {
    libraries.with_extension("jsa")
}

fn log_settings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/log4j2.properties")
}
