//! Publishing.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    time::{Instant, sleep},
};

use runmesh_events::EventType;

use super::{KafkaConfig, error, logs, topic_of};
use crate::{BusError, Placement, Record};

/// How long a call waits before it looks again whether the client's queue has room.
const QUEUE_WAIT: Duration = Duration::from_millis(5);

type Client = ThreadedProducer<Deliveries>;
type Report = (usize, Result<Placement, BusError>);

/// The process's producer.
pub(super) struct Producer {
    settings: ClientConfig,
    client: Mutex<Arc<Client>>,
    limit: usize,
    patience: Duration,
}

impl Producer {
    pub(super) fn start(config: &KafkaConfig) -> Result<Self, BusError> {
        let settings = config.producer();
        let client = Mutex::new(Arc::new(connect(&settings)?));
        Ok(Self { settings, client, limit: config.max_record_bytes, patience: config.delivery_timeout })
    }

    /// Publishes records in this order, those of some types to other topics than theirs. A result for each, in the same order.
    pub(super) async fn publish(
        &self,
        records: &[Record],
        topics: &BTreeMap<EventType, String>,
    ) -> Vec<Result<Placement, BusError>> {
        let client = self.client();
        let (reports, reported) = mpsc::unbounded_channel();
        let mut call =
            Call { records, results: vec![None; records.len()], held_back: HashSet::new(), topics, reported };
        for (index, record) in records.iter().enumerate() {
            call.take_reports();
            if let Some(result) = self.send(&client, record, index, &reports, &mut call).await {
                call.note((index, result));
            }
        }
        // What is left is held by the records on their way.
        drop(reports);
        while let Some(report) = call.reported.recv().await {
            call.note(report);
        }
        call.hold_back_what_overtook();
        if call.results.iter().any(|result| !matches!(result, Some(Ok(_)))) {
            self.replace_if_broken(&client);
        }
        call.results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(BusError::Unavailable("the fate is unknown".to_owned()))))
            .collect()
    }

    /// Gives one record to the client. `None`: it is on its way, a report follows.
    async fn send(
        &self,
        client: &Client,
        record: &Record,
        index: usize,
        reports: &mpsc::UnboundedSender<Report>,
        call: &mut Call<'_>,
    ) -> Option<Result<Placement, BusError>> {
        let topic = match (call.topics.get(&record.event_type), topic_of(record.event_type)) {
            (Some(other), _) => other.as_str(),
            (None, Ok(topic)) => topic.name.as_str(),
            (None, Err(error)) => return Some(Err(error)),
        };
        let size = size_of(record);
        if size > self.limit {
            return Some(Err(BusError::TooLarge { size, limit: self.limit }));
        }
        let deadline = Instant::now() + self.patience;
        loop {
            if call.held_back.contains(&record.key) {
                return Some(Err(held_back()));
            }
            let ticket = Box::new(Ticket { index, size, limit: self.limit, reports: reports.clone() });
            match client.send(to_send(topic, record, ticket)) {
                Ok(()) => return None,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if Instant::now() < deadline => {}
                Err((error, _)) => return Some(Err(error::of_record(&error, size, self.limit))),
            }
            sleep(QUEUE_WAIT).await;
            call.take_reports();
        }
    }

    fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An idempotent producer that lost its place in a partition's sequence refuses all work from then on.
    fn replace_if_broken(&self, used: &Arc<Client>) {
        let Some((code, reason)) = used.client().fatal_error() else { return };
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&client, used) {
            return;
        }
        tracing::error!(%code, reason, "the producer can't go on; starting another");
        match connect(&self.settings) {
            Ok(fresh) => *client = Arc::new(fresh),
            Err(error) => tracing::error!(%error, "can't start another producer"),
        }
    }
}

/// One call to publish.
struct Call<'a> {
    records: &'a [Record],
    results: Vec<Option<Result<Placement, BusError>>>,
    /// Keys of which a record failed for the moment: a later one must not overtake it.
    held_back: HashSet<Bytes>,
    /// Topics in the stead of those of event types.
    topics: &'a BTreeMap<EventType, String>,
    reported: mpsc::UnboundedReceiver<Report>,
}

impl Call<'_> {
    fn note(&mut self, (index, result): Report) {
        if let Err(error) = &result
            && error.is_transient()
        {
            self.held_back.insert(self.records[index].key.clone());
        }
        self.results[index] = Some(result);
    }

    /// What came after a record of the same key that is to be published again is published again too: the order of a key's
    /// last copies is right.
    fn hold_back_what_overtook(&mut self) {
        let mut again: HashSet<&Bytes> = HashSet::new();
        for (record, result) in self.records.iter().zip(&mut self.results) {
            match result {
                Some(Ok(_)) if again.contains(&record.key) => *result = Some(Err(held_back())),
                Some(Err(error)) if error.is_transient() => drop(again.insert(&record.key)),
                _ => {}
            }
        }
    }

    fn take_reports(&mut self) {
        loop {
            match self.reported.try_recv() {
                Ok(report) => self.note(report),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }
}

fn held_back() -> BusError {
    BusError::Unavailable("an earlier record of the same key failed".to_owned())
}

fn connect(settings: &ClientConfig) -> Result<Client, BusError> {
    settings.create_with_context(Deliveries).map_err(|error| error::of("producer", &error))
}

fn to_send<'a>(topic: &'a str, record: &'a Record, ticket: Box<Ticket>) -> BaseRecord<'a, [u8], [u8], Box<Ticket>> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: Some(&value[..]) });
    }
    BaseRecord::with_opaque_to(topic, ticket)
        .key(&record.key[..])
        .payload(&record.value[..])
        .headers(headers)
        .timestamp(millis(record.timestamp))
}

fn size_of(record: &Record) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    record.key.len() + headers + record.value.len()
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What travels with a record until its fate is known.
struct Ticket {
    index: usize,
    size: usize,
    limit: usize,
    reports: mpsc::UnboundedSender<Report>,
}

/// Tells each call what became of its records.
struct Deliveries;

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        logs::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        logs::failed(&error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, delivery: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let result = match delivery {
            // librdkafka (2.12.1) takes a record for published when a later one of its partition is acknowledged. A leader that
            // is new to the partition, and has nothing of this producer, acknowledges the later one though it never got the
            // first. Only what a broker has placed is published.
            Ok(message) => u64::try_from(message.offset())
                .map(|offset| Placement { partition: message.partition(), offset })
                .map_err(|_| BusError::Unavailable("no broker has said that it has the record".to_owned())),
            Err((error, _)) => Err(error::of_record(error, ticket.size, ticket.limit)),
        };
        // The caller may have gone away.
        let _ = ticket.reports.send((ticket.index, result));
    }
}
