//! What librdkafka has to say, as events of our own log.

use rdkafka::{ClientContext, config::RDKafkaLogLevel, error::KafkaError};

/// A client without callbacks other than for its log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Logs;

impl ClientContext for Logs {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        failed(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for Logs {}

pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(facility, message, "kafka client");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(facility, message, "kafka client");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(facility, message, "kafka client"),
    }
}

/// Errors of the client as a whole. It recovers from them by itself; the calls that suffer report their own.
pub(super) fn failed(error: &KafkaError, reason: &str) {
    tracing::warn!(%error, reason, "kafka client failed");
}
