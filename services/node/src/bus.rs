//! The bus that the settings name.

use std::{sync::Arc, time::Duration};

use runmesh_bus::{Bus, BusError, EmbeddedBus, KafkaBus};
use runmesh_events::{EventType, TopicSpec};
use runmesh_proto::event::{Category, RetryPreset};
use runmesh_store::SqliteStore;

use crate::config::BusConfig;

/// An open bus.
pub(crate) struct OpenBus {
    pub(crate) bus: Arc<dyn Bus>,
    /// The bus itself where it is Kafka.
    pub(crate) kafka: Option<KafkaBus>,
}

/// Opens the bus. The embedded one lives in the store.
pub(crate) fn open(config: &BusConfig, node: &str, store: Option<&SqliteStore>) -> Result<OpenBus, BusError> {
    let Some(settings) = config.kafka(node) else {
        let Some(store) = store else {
            return Err(BusError::Invalid("the embedded bus lives in a SQLite store; this one needs Kafka".to_owned()));
        };
        return Ok(OpenBus { bus: Arc::new(EmbeddedBus::new(store.clone())), kafka: None });
    };
    let kafka = KafkaBus::open(settings)?;
    Ok(OpenBus { bus: Arc::new(kafka.clone()), kafka: Some(kafka) })
}

/// The partitions of a topic that is no event type's, and for how long it keeps records, where it has to be made.
const MORE: (i32, Duration) = (6, Duration::from_secs(7 * 24 * 60 * 60));

/// Makes those of these topics that are missing. They are no event types', and the others are left as they are.
pub(crate) async fn ensure_more(bus: &dyn Bus, names: &[String]) -> Result<(), BusError> {
    let wanted: Vec<TopicSpec> = names
        .iter()
        .map(|name| TopicSpec {
            event_type: EventType::Unspecified,
            name: name.clone(),
            category: Category::Unspecified,
            partitions: MORE.0,
            retention: MORE.1,
            retry_preset: RetryPreset::Unspecified,
            streamable: false,
        })
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let found = bus.check_topics(&wanted).await?;
    let missing: Vec<TopicSpec> = wanted.into_iter().filter(|topic| found.created.contains(&topic.name)).collect();
    bus.ensure_topics(&missing).await.map(drop)
}
