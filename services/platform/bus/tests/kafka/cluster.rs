//! librdkafka's mock cluster, on a thread of its own: its handle can't leave it.

use std::{sync::mpsc, thread, time::Duration};

use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use runmesh_bus::{
    KafkaConfig,
    conformance::{TOPIC, TOPIC_2},
};
use runmesh_events::{Catalog, TopicSpec};

type Handle = MockCluster<'static, DefaultProducerContext>;
type Command = Box<dyn FnOnce(&Handle) + Send>;

/// A cluster of one broker. It ends when it is dropped.
pub(crate) struct Cluster {
    brokers: String,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cluster {
    /// With the topics that the tests use. The mock cluster does not know the call that makes topics, and takes long to
    /// make them through its handle.
    pub(crate) fn start() -> Self {
        Self::with_topics([TOPIC, TOPIC_2].iter().map(|topic| Catalog::get().topic(*topic).unwrap().clone()).collect())
    }

    pub(crate) fn with_topics(topics: Vec<TopicSpec>) -> Self {
        let (commands, queue) = mpsc::channel::<Command>();
        let (tell, brokers) = mpsc::channel();
        let thread = thread::spawn(move || {
            let cluster = MockCluster::new(1).unwrap();
            for topic in topics {
                cluster.create_topic(&topic.name, topic.partitions, 1).unwrap();
            }
            tell.send(cluster.bootstrap_servers()).unwrap();
            while let Ok(command) = queue.recv() {
                command(&cluster);
            }
        });
        Self { brokers: brokers.recv().unwrap(), commands: Some(commands), thread: Some(thread) }
    }

    pub(crate) fn config(&self) -> KafkaConfig {
        let mut config = KafkaConfig {
            max_record_bytes: 4 << 20,
            delivery_timeout: Duration::from_secs(5),
            ..KafkaConfig::new(&self.brokers)
        };
        // The mock cluster lets every rebalance last as long as a session, less a second.
        config.properties.insert("session.timeout.ms".to_owned(), "3000".to_owned());
        config.properties.insert("heartbeat.interval.ms".to_owned(), "200".to_owned());
        config
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
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
