//! A private Kafka cluster of a test.

mod node;
mod settings;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{Installed, install, ports::Ports, private::private_folder, process::Process};

pub(crate) use node::{Node, archive};
pub(crate) use settings::{Cluster, PORTS_PER_NODE};
pub use settings::{Sasl, Security, Tls};

/// How often a cluster is started with other ports when one of its ports was taken.
const TRIES: usize = 5;

/// How a private cluster is made.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// How many nodes, each a broker and a controller. With three, one may be lost.
    pub nodes: usize,
    /// `min.insync.replicas` of topics that do not say otherwise.
    pub min_insync: usize,
    /// What the listener for clients asks of them. The brokers talk to each other without any of it.
    pub security: Security,
    /// What clients are told to connect to, one address per node: a proxy's, which forwards to [`Kafka::listener`].
    /// Empty: the listeners themselves.
    pub advertised: Vec<SocketAddr>,
    /// Further lines of `server.properties`, which win over the ones chosen here.
    pub settings: Vec<(String, String)>,
    /// Where the data goes, a folder below it per node, made and removed. `None`: a folder below `target/servers`.
    pub folder: Option<PathBuf>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            nodes: 1,
            min_insync: 1,
            security: Security::default(),
            advertised: Vec::new(),
            settings: Vec::new(),
            folder: None,
        }
    }
}

impl KafkaOptions {
    /// Three nodes of which one may be lost: topics have three replicas, and two have to acknowledge.
    #[must_use]
    pub fn three() -> Self {
        Self { nodes: 3, min_insync: 2, ..Self::default() }
    }

    /// With a further line of `server.properties`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }
}

/// A cluster that runs until this is dropped. Nodes are numbered from 1, as Kafka's are.
#[derive(Debug)]
pub struct Kafka {
    cluster: Cluster,
    nodes: Vec<Node>,
    running: Vec<Option<Process>>,
    _ports: Ports,
    folder: Folder,
}

impl Kafka {
    /// Starts a cluster and waits until every node serves.
    ///
    /// # Errors
    /// When it can't be installed or a node does not get ready; the error has the end of its log.
    pub fn start(options: &KafkaOptions) -> anyhow::Result<Self> {
        ensure!(options.nodes == 1 || options.nodes == 3, "a cluster has 1 or 3 nodes, not {}", options.nodes);
        ensure!(
            options.advertised.is_empty() || options.advertised.len() == options.nodes,
            "{} advertised addresses for {} nodes",
            options.advertised.len(),
            options.nodes
        );
        let installed = install()?;
        let mut tries = 1;
        loop {
            let mut kafka = Self::prepare(&installed, options)?;
            match kafka.start_all() {
                Ok(()) => return Ok(kafka),
                Err(_) if tries < TRIES && kafka.running.iter().flatten().any(Process::lost_its_port) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs a node once and writes the [`archive`] of the classes that it has loaded.
    pub(crate) fn record_classes(installed: &Installed) -> anyhow::Result<()> {
        let mut kafka = Self::prepare(installed, &KafkaOptions::default())?;
        kafka.nodes = kafka.nodes.drain(..).map(Node::recording).collect();
        kafka.start_all()?;
        kafka.stop(1)?;
        let archive = archive(&installed.kafka);
        ensure!(archive.exists(), "Java did not write {}", archive.display());
        Ok(())
    }

    fn prepare(installed: &Installed, options: &KafkaOptions) -> anyhow::Result<Self> {
        let folder = Folder::make(options.folder.as_deref())?;
        let ports = Ports::take(options.nodes * PORTS_PER_NODE)?;
        let cluster = Cluster::new(options, &ports);
        let heap = if options.nodes == 1 { Node::LARGE } else { Node::SMALL };
        let nodes: Vec<Node> = (1..=options.nodes).map(|id| Node::new(installed, id, folder.node(id), heap)).collect();
        // One JVM each, side by side.
        thread::scope(|scope| {
            let prepared: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.format(&cluster))).collect();
            prepared.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let running = nodes.iter().map(|_| None).collect();
        Ok(Self { cluster, nodes, running, _ports: ports, folder })
    }

    fn start_all(&mut self) -> anyhow::Result<()> {
        // They wait for each other: all are started before the first is ready.
        for (node, running) in self.nodes.iter().zip(&mut self.running) {
            *running = Some(node.start(&self.folder.passing(node.id))?);
        }
        for (node, running) in self.nodes.iter().zip(&mut self.running) {
            let running = running.as_mut().context("a node that was just started")?;
            running.wait_ready(Node::READY, self.cluster.listener(node.id))?;
        }
        Ok(())
    }

    /// Where clients start: the addresses of all nodes, as `host:port,…`.
    pub fn bootstrap(&self) -> String {
        let all: Vec<String> = self.nodes.iter().map(|node| self.cluster.advertised(node.id).to_string()).collect();
        all.join(",")
    }

    /// Where a node really listens for clients. It is known before the proxy that it advertises forwards to it.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn listener(&self, node: usize) -> SocketAddr {
        self.cluster.listener(node)
    }

    /// The process id of a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, node: usize) -> anyhow::Result<u32> {
        Ok(self.running(node)?.id())
    }

    /// The folder of a node: its settings, its data (`data`) and its log (`broker.log`).
    pub fn node_folder(&self, node: usize) -> PathBuf {
        self.folder.node(node)
    }

    /// Ends a node by SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        self.take(node)?.kill()
    }

    /// Ends a node by SIGTERM and waits.
    ///
    /// # Errors
    /// When it does not run, or does not end within a minute.
    pub fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        self.take(node)?.stop()
    }

    /// Starts a node again on its data and its ports, and waits until it serves.
    ///
    /// # Errors
    /// When it runs already, or does not get ready; the error has the end of its log.
    pub fn start_node(&mut self, node: usize) -> anyhow::Result<()> {
        let (index, listener) = (self.index(node)?, self.cluster.listener(node));
        ensure!(self.running[index].is_none(), "node {node} runs already");
        let running = self.running[index].insert(self.nodes[index].start(&self.folder.passing(node))?);
        running.wait_ready(Node::READY, listener)
    }

    /// Stops a node's process where it stands, by SIGSTOP: it holds its connections and says nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, node: usize) -> anyhow::Result<()> {
        self.running(node)?.pause()
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self, node: usize) -> anyhow::Result<()> {
        self.running(node)?.signal(Signal::CONT)
    }

    fn index(&self, node: usize) -> anyhow::Result<usize> {
        ensure!((1..=self.nodes.len()).contains(&node), "there is no node {node}: they are 1 to {}", self.nodes.len());
        Ok(node - 1)
    }

    fn running(&self, node: usize) -> anyhow::Result<&Process> {
        self.running[self.index(node)?].as_ref().with_context(|| format!("node {node} does not run"))
    }

    fn take(&mut self, node: usize) -> anyhow::Result<Process> {
        let index = self.index(node)?;
        self.running[index].take().with_context(|| format!("node {node} does not run"))
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // Before their folders go.
        self.running.clear();
    }
}

/// The folder of a cluster, removed with it.
#[derive(Debug)]
enum Folder {
    Own(TempDir),
    /// The caller's: a file system of a test, perhaps. Only what is made in it is removed.
    Given(PathBuf),
}

impl Folder {
    fn make(given: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(given) = given {
            fs::create_dir_all(given).with_context(|| format!("can't make {}", given.display()))?;
            return Ok(Self::Given(given.to_owned()));
        }
        Ok(Self::Own(private_folder("kafka")?))
    }

    fn node(&self, id: usize) -> PathBuf {
        let folder = match self {
            Self::Own(own) => own.path(),
            Self::Given(given) => given,
        };
        folder.join(format!("node-{id}"))
    }

    /// What has to go when the test dies, for which each node cares while it runs.
    fn passing(&self, id: usize) -> PathBuf {
        match self {
            Self::Own(own) => own.path().to_owned(),
            Self::Given(_) => self.node(id),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Given(given) = self {
            for id in 1..=3 {
                fs::remove_dir_all(given.join(format!("node-{id}"))).ok();
            }
        }
    }
}
