//! The bus that the settings name.

use std::sync::Arc;

use runmesh_bus::{Bus, BusError, EmbeddedBus, KafkaBus};
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
