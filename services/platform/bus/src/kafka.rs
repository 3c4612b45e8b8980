//! The bus on Apache Kafka: a topic for each event type, through librdkafka.
//!
//! One idempotent producer serves the process; each subscription is one group member with a thread of its own that never
//! stops polling. Invariants: an offset is committed only while its partition belongs to this member; a partition that
//! moves to another member is let go only after what was handed on is finished and committed, or the patience for that
//! has run out.

mod config;
mod error;
mod handoff;
mod inspect;
mod lag;
mod logs;
mod member;
mod producer;
mod reach;
mod subscription;
mod tail;
mod topics;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use prost::Message as _;
use runmesh_events::{AggregateId, Catalog, Event, EventType, GroupName, TopicSpec, UnknownTopic};
use runmesh_store::LiveEvents;

use crate::{Bus, BusError, Extent, GroupLag, Lane, Placement, Record, Records, Subscription, TopicReport};
pub use config::{GroupProtocol, KafkaConfig, Sasl, SaslMechanism, Tls};
use producer::Producer;
use subscription::KafkaSubscription;
pub use tail::Tail;

/// The bus on a Kafka cluster. Clones share the connections.
#[derive(Clone)]
pub struct KafkaBus {
    config: Arc<KafkaConfig>,
    producer: Arc<Producer>,
}

impl KafkaBus {
    /// A bus on the cluster that the configuration names. It connects in the background: brokers need not be up yet.
    ///
    /// # Errors
    /// [`BusError::Invalid`] when a setting has no meaning to the client or would break what the bus guarantees.
    pub fn open(config: KafkaConfig) -> Result<Self, BusError> {
        config.check()?;
        let producer = Producer::start(&config)?;
        Ok(Self { config: Arc::new(config), producer: Arc::new(producer) })
    }

    /// Tells the followers of a store that is shared of what other processes append, as it is published, until the tail is
    /// dropped. A hint that is missed costs them time only: they look for themselves.
    ///
    /// # Errors
    /// When the client can't be made.
    pub fn hint(&self, live: LiveEvents, topics: &[EventType]) -> Result<Tail, BusError> {
        tail::start(&self.config, topic_names(topics)?, move |key, value| {
            if let (Ok(key), Ok(event)) = (std::str::from_utf8(key), Event::decode(value)) {
                live.hint(&AggregateId::from(key), event.sequence);
            }
        })
    }
}

impl std::fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaBus").field("config", &self.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl Bus for KafkaBus {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn carries_store(&self) -> bool {
        false
    }

    async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<TopicReport, BusError> {
        let (config, topics) = (Arc::clone(&self.config), topics.to_vec());
        blocking(move || topics::reconcile(&config, &topics, topics::Mode::Apply)).await
    }

    async fn check_topics(&self, topics: &[TopicSpec]) -> Result<TopicReport, BusError> {
        let (config, topics) = (Arc::clone(&self.config), topics.to_vec());
        blocking(move || topics::reconcile(&config, &topics, topics::Mode::Compare)).await
    }

    /// Records of one key that reach their topic do so in this order. A record that fails for the moment holds back those
    /// behind it with the same key: they fail too, unless they were on their way already. One of those may then be
    /// durable while the earlier one is not, but only when the cluster came back in the instant between their deadlines,
    /// and the results say so: the earlier one is an error, the later one a placement. A record that is refused for good
    /// holds back no other.
    async fn publish(&self, records: Vec<Record>) -> Vec<Result<Placement, BusError>> {
        self.producer.publish(&records, &BTreeMap::new()).await
    }

    async fn publish_mapped(
        &self,
        records: Vec<Record>,
        topics: &BTreeMap<EventType, String>,
    ) -> Vec<Result<Placement, BusError>> {
        self.producer.publish(&records, topics).await
    }

    async fn subscribe(&self, group: GroupName, topics: &[EventType]) -> Result<Box<dyn Subscription>, BusError> {
        let names = topic_names(topics)?;
        let config = Arc::clone(&self.config);
        let subscription = blocking(move || KafkaSubscription::join(&config, group, names)).await?;
        Ok(Box::new(subscription))
    }

    async fn begin_at_end(&self, group: GroupName, topics: &[EventType]) -> Result<(), BusError> {
        topic_names(topics)?;
        let (config, topics) = (Arc::clone(&self.config), topics.to_vec());
        blocking(move || reach::patiently(&config, || inspect::begin_at_end(&config, group, &topics))).await
    }

    async fn lag(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<GroupLag>, BusError> {
        topic_names(topics)?;
        let (config, topics) = (Arc::clone(&self.config), topics.to_vec());
        blocking(move || reach::patiently(&config, || lag::of(&config, group, &topics))).await
    }

    async fn extents(&self, topics: &[EventType]) -> Result<Vec<Extent>, BusError> {
        topic_names(topics)?;
        let (config, topics) = (Arc::clone(&self.config), topics.to_vec());
        blocking(move || reach::patiently(&config, || inspect::extents(&config, &topics))).await
    }

    async fn offsets_at(&self, topics: &[EventType], time: SystemTime) -> Result<Vec<(Lane, u64)>, BusError> {
        topic_names(topics)?;
        let (config, topics) = (Arc::clone(&self.config), topics.to_vec());
        blocking(move || reach::patiently(&config, || inspect::offsets_at(&config, &topics, time))).await
    }

    async fn committed(&self, group: GroupName, topics: &[EventType]) -> Result<Vec<(Lane, u64)>, BusError> {
        topic_names(topics)?;
        let (config, topics) = (Arc::clone(&self.config), topics.to_vec());
        blocking(move || reach::patiently(&config, || inspect::committed(&config, group, &topics))).await
    }

    async fn read(&self, lane: Lane, from: u64, until: u64) -> Result<Records, BusError> {
        inspect::read(&self.config, topic_of(lane.event_type)?, lane, from..until)
    }
}

/// The topic of an event type.
fn topic_of(event_type: EventType) -> Result<&'static TopicSpec, BusError> {
    Catalog::get().topic(event_type).ok_or_else(|| UnknownTopic(event_type.as_str_name().to_owned()).into())
}

fn topic_names(event_types: &[EventType]) -> Result<Vec<&'static str>, BusError> {
    event_types.iter().map(|event_type| Ok(topic_of(*event_type)?.name.as_str())).collect()
}

/// Runs a call of librdkafka's that blocks on a thread where it may.
async fn blocking<R, F>(work: F) -> Result<R, BusError>
where
    R: Send + 'static,
    F: FnOnce() -> Result<R, BusError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(BusError::Unavailable(format!("a call did not end: {error}"))),
    }
}
