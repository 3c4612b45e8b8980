//! Brokers of this test's own, and topics on them that are new.

use std::{
    io::{self, Write as _},
    panic,
    sync::{Condvar, LazyLock, Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    types::RDKafkaErrorCode as Code,
};
use runmesh_bus::{
    Bus as _, KafkaBus,
    conformance::{TOPIC, TOPIC_2},
    kafka::KafkaConfig,
};
use runmesh_events::{Catalog, TopicSpec};
use runmesh_servers::{Kafka, KafkaOptions};

/// How many brokers there are at once: as many as cases run at once on a machine of two cores.
const BROKERS: usize = 2;

const PATIENCE: Duration = Duration::from_secs(30);

/// Brokers that wait for the next case. They end with the process.
static IDLE: LazyLock<Idle> = LazyLock::new(Idle::default);

#[derive(Default)]
struct Idle {
    brokers: Mutex<(Vec<Kafka>, usize)>,
    given_back: Condvar,
}

/// Shows the bus's log with a test that fails, and before it, at once, why it does: the log is long, and who shows only a
/// part of it may leave that out.
fn show_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let capturing = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Other threads have handlers that are meant to panic.
            if let Some(test) = thread::current().name().filter(|name| name.contains("::")) {
                let _ = writeln!(io::stderr(), "{test} {info}");
            }
            capturing(info);
        }));
        let level = tracing_subscriber::filter::LevelFilter::DEBUG;
        tracing_subscriber::fmt().with_max_level(level).with_test_writer().with_ansi(false).init();
    });
}

/// A broker that no other case uses meanwhile, with [`TOPIC`] and [`TOPIC_2`], new and empty, and no groups.
pub(crate) struct Clean(Option<Kafka>);

impl Clean {
    /// The same without any topic.
    pub(crate) async fn empty() -> Self {
        show_logs();
        let clean = blocking(|| {
            let clean = Self(Some(idle()));
            remove_all(&clean.bootstrap());
            clean
        });
        clean.await
    }

    pub(crate) async fn broker() -> Self {
        let clean = Self::empty().await;
        let report = KafkaBus::open(clean.config()).unwrap().ensure_topics(&specs()).await.unwrap();
        assert_eq!(report.created.len(), 2, "{report:?}");
        clean
    }

    pub(crate) fn bootstrap(&self) -> String {
        self.0.as_ref().unwrap().bootstrap()
    }

    pub(crate) fn config(&self) -> KafkaConfig {
        let request_timeout = PATIENCE * 2;
        KafkaConfig { max_record_bytes: 4 << 20, request_timeout, ..KafkaConfig::new(self.bootstrap()) }
    }
}

impl Drop for Clean {
    fn drop(&mut self) {
        let mut brokers = IDLE.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        brokers.0.extend(self.0.take());
        IDLE.given_back.notify_one();
    }
}

/// The topics that the cases use.
pub(crate) fn specs() -> Vec<TopicSpec> {
    [TOPIC, TOPIC_2].iter().map(|topic| Catalog::get().topic(*topic).unwrap().clone()).collect()
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A cluster that belongs to one test.
pub(crate) async fn private(options: KafkaOptions) -> Kafka {
    show_logs();
    blocking(move || Kafka::start(&options).unwrap()).await
}

fn idle() -> Kafka {
    let mut brokers = IDLE.brokers.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(broker) = brokers.0.pop() {
            return broker;
        }
        if brokers.1 < BROKERS {
            brokers.1 += 1;
            drop(brokers);
            return Kafka::start(&KafkaOptions::default()).unwrap();
        }
        brokers = IDLE.given_back.wait(brokers).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Removes all groups and topics.
fn remove_all(bootstrap: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
    // A member with a name that has left is one until its session ends, which takes 30 s.
    let deadline = Instant::now() + PATIENCE * 4;
    loop {
        let groups = admin.inner().fetch_group_list(None, PATIENCE).unwrap();
        let groups: Vec<&str> = groups.groups().iter().map(|group| group.name()).collect();
        let metadata = admin.inner().fetch_metadata(None, PATIENCE).unwrap();
        let topics: Vec<&str> =
            metadata.topics().iter().map(|topic| topic.name()).filter(|name| !name.starts_with("__")).collect();
        if groups.is_empty() && topics.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{groups:?} and {topics:?} can't be removed");
        if !groups.is_empty() {
            for result in runtime.block_on(admin.delete_groups(&groups, &options)).unwrap() {
                // A member of the case before may be on its way out.
                let gone = matches!(result, Ok(_) | Err((_, Code::NonEmptyGroup | Code::GroupIdNotFound)));
                assert!(gone, "{result:?}");
            }
        }
        if !topics.is_empty() {
            for result in runtime.block_on(admin.delete_topics(&topics, &options)).unwrap() {
                let gone = matches!(result, Ok(_) | Err((_, Code::UnknownTopicOrPartition | Code::UnknownTopic)));
                assert!(gone, "{result:?}");
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}
