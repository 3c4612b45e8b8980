//! The bus that the settings name.

use std::sync::Arc;

use runmesh_bus::{Bus, BusError, EmbeddedBus, KafkaBus, KafkaConfig};
use runmesh_store::SqliteStore;

use crate::config::BusConfig;

/// What stands before the brokers in the setting.
const KAFKA: &str = "kafka://";

/// Whether the settings name another bus than the store itself, so that a relay has to publish.
pub(crate) fn is_remote(config: &BusConfig) -> bool {
    config.uri.starts_with(KAFKA)
}

/// Opens the bus.
pub(crate) fn open(config: &BusConfig, node: &str, store: &SqliteStore) -> Result<Arc<dyn Bus>, BusError> {
    let Some(brokers) = config.uri.strip_prefix(KAFKA) else {
        return Ok(Arc::new(EmbeddedBus::new(store.clone())));
    };
    let properties = config.properties.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let settings = KafkaConfig { client_id: format!("runmesh-{node}"), properties, ..KafkaConfig::new(brokers) };
    Ok(Arc::new(KafkaBus::open(settings)?))
}
