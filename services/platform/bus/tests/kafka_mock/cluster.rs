//! librdkafka's mock cluster, on a thread of its own: its handle can't leave it.

use std::{sync::mpsc, thread};

use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use runmesh_bus::{KafkaConfig, conformance::TOPIC};
use runmesh_events::Catalog;

type Handle = MockCluster<'static, DefaultProducerContext>;
type Command = Box<dyn FnOnce(&Handle) + Send>;

/// A cluster of one broker. It ends when it is dropped.
pub(crate) struct Cluster {
    brokers: String,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cluster {
    /// With the topic that the tests use. The mock cluster does not know the call that makes topics.
    pub(crate) fn start() -> Self {
        let topic = Catalog::get().topic(TOPIC).unwrap();
        let (commands, queue) = mpsc::channel::<Command>();
        let (tell, brokers) = mpsc::channel();
        let thread = thread::spawn(move || {
            let cluster = MockCluster::new(1).unwrap();
            cluster.create_topic(&topic.name, topic.partitions, 1).unwrap();
            tell.send(cluster.bootstrap_servers()).unwrap();
            while let Ok(command) = queue.recv() {
                command(&cluster);
            }
        });
        Self { brokers: brokers.recv().unwrap(), commands: Some(commands), thread: Some(thread) }
    }

    pub(crate) fn config(&self) -> KafkaConfig {
        KafkaConfig::new(&self.brokers)
    }

    /// Does something to the cluster.
    pub(crate) fn tell(&self, command: impl FnOnce(&Handle) + Send + 'static) {
        let (done, wait) = mpsc::channel();
        let command = Box::new(move |cluster: &Handle| {
            command(cluster);
            done.send(()).unwrap();
        });
        self.commands.as_ref().unwrap().send(command).unwrap();
        wait.recv().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
