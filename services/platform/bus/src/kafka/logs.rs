//! What librdkafka has to say, as events of our own log.

use rdkafka::{ClientContext, config::RDKafkaLogLevel, error::KafkaError, types::RDKafkaErrorCode as Code};

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
    if is_outage(error) {
        tracing::debug!(%error, reason, "kafka client failed");
    } else {
        tracing::warn!(%error, reason, "kafka client failed");
    }
}

/// Whether it only says that brokers are away. Every client says so again with each attempt to connect, many times a second;
/// its log, in which what is the same is left out for a while, has it too.
pub(super) fn is_outage(error: &KafkaError) -> bool {
    let away = [Code::AllBrokersDown, Code::BrokerTransportFailure];
    error.rdkafka_error_code().is_some_and(|code| away.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_brokers_are_away_is_told_from_other_errors() {
        for code in [Code::AllBrokersDown, Code::BrokerTransportFailure] {
            assert!(is_outage(&KafkaError::Global(code)) && is_outage(&KafkaError::MessageConsumption(code)));
        }
        assert!(!is_outage(&KafkaError::Global(Code::Authentication)));
        assert!(!is_outage(&KafkaError::MessageConsumption(Code::OffsetOutOfRange)));
        assert!(!is_outage(&KafkaError::Canceled));
    }
}
