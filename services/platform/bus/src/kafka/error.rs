//! librdkafka's errors as the bus's.

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

use crate::BusError;

/// An error of a call about groups, offsets or topics.
pub(super) fn of(what: &str, error: &KafkaError) -> BusError {
    let text = match error {
        // Not the value: it may be a secret.
        KafkaError::ClientConfig(_, reason, property, _) => format!("{what}: the property {property}: {reason}"),
        error => format!("{what}: {error}"),
    };
    match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Nul(_) => BusError::Invalid(text),
        KafkaError::AdminOpCreation(_) | KafkaError::MessageConsumptionFatal(_) => BusError::Backend(text),
        KafkaError::AdminOp(code) => of_code(text, *code),
        error => match error.rdkafka_error_code() {
            Some(code) => of_code(text, code),
            None => BusError::Unavailable(text),
        },
    }
}

/// The same for a bare code.
pub(super) fn of_code(text: String, code: Code) -> BusError {
    match code {
        Code::Authentication
        | Code::ClusterAuthorizationFailed
        | Code::Fatal
        | Code::GroupAuthorizationFailed
        | Code::InvalidArgument
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidTopic
        | Code::PolicyViolation
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::UnsupportedFeature
        | Code::UnsupportedVersion => BusError::Backend(text),
        _ => BusError::Unavailable(text),
    }
}

/// An error of a record of `size` bytes that was published. Permanent only where the record itself is what is refused:
/// what an operator can put right, such as a missing topic or permission, must not turn events into dead letters.
pub(super) fn of_record(error: &KafkaError, size: usize, limit: usize) -> BusError {
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge) => {
            BusError::TooLarge { size, limit }
        }
        Some(Code::InvalidRecord | Code::InvalidTimestamp) => BusError::Backend(error.to_string()),
        _ if matches!(error, KafkaError::Nul(_)) => BusError::Backend(error.to_string()),
        _ => BusError::Unavailable(error.to_string()),
    }
}
