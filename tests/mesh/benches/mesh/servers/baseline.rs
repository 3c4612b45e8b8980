//! librdkafka by itself, with the settings of ours that matter: idempotent, acks=all, lz4, linger 1 ms.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
};
use runmesh_bus::Record;
use tokio::sync::oneshot;

use super::TOPIC;

/// Wakes whoever waits for a record's acknowledgement.
pub(super) struct Acknowledge;

impl ClientContext for Acknowledge {}

impl ProducerContext<NoCustomPartitioner> for Acknowledge {
    type DeliveryOpaque = Box<oneshot::Sender<bool>>;

    fn delivery(&self, delivery: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        sender.send(delivery.is_ok()).ok();
    }
}

/// A producer.
pub(super) struct Baseline(ThreadedProducer<Acknowledge>);

impl Baseline {
    pub(super) fn new(brokers: &str) -> anyhow::Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .create_with_context(Acknowledge)?;
        Ok(Self(producer))
    }

    /// Produces one record and waits until it is acknowledged.
    pub(super) async fn produce(&self, record: &Record) -> anyhow::Result<()> {
        let (sender, acknowledged) = oneshot::channel();
        let sent = BaseRecord::with_opaque_to(TOPIC, Box::new(sender)).key(&record.key[..]).payload(&record.value[..]);
        self.0.send(sent).map_err(|(error, _)| error)?;
        anyhow::ensure!(acknowledged.await?, "a record was not acknowledged");
        Ok(())
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        self.0.flush(Duration::from_secs(10)).ok();
    }
}

/// A member of a group of its own that hands over the value of each record, until it is dropped.
pub(super) struct Reading(Arc<AtomicBool>);

impl Reading {
    pub(super) fn start(
        brokers: &str,
        group: &str,
        offsets: &str,
        mut take: impl FnMut(&[u8]) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", group)
            .set("auto.offset.reset", offsets)
            .set("fetch.wait.max.ms", "100")
            .create()?;
        member.subscribe(&[TOPIC])?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        std::thread::spawn(move || {
            while !end.load(Ordering::Acquire) {
                if let Some(Ok(message)) = member.poll(Duration::from_millis(100)) {
                    take(message.payload().unwrap_or_default());
                }
            }
        });
        Ok(Self(ended))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
