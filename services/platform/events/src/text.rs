//! Looking for text in what happened.

use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};

use crate::{Event, json};

/// Whether a text in lower case is part of one of the texts of the event's payload, in whatever case they are. Bytes, such as
/// output, are looked at as UTF-8, and numbers by their digits.
pub fn payload_contains(event: &Event, lowercase: &str) -> bool {
    let Some(payload) = &event.payload else { return false };
    let alone = Event { payload: Some(payload.clone()), ..Event::default() };
    let message = json::descriptor(json::EVENT)
        .and_then(|descriptor| DynamicMessage::decode(descriptor, alone.encode_to_vec().as_slice()).ok());
    message.is_some_and(|message| message_contains(&message, lowercase))
}

fn message_contains(message: &DynamicMessage, text: &str) -> bool {
    message.fields().any(|(_, value)| value_contains(value, text))
}

fn value_contains(value: &Value, text: &str) -> bool {
    let contains = |found: &str| found.to_lowercase().contains(text);
    match value {
        Value::String(found) => contains(found),
        Value::Bytes(found) => contains(&String::from_utf8_lossy(found)),
        Value::Message(message) => message_contains(message, text),
        Value::List(values) => values.iter().any(|value| value_contains(value, text)),
        Value::Map(values) => {
            values.iter().any(|(key, value)| key.as_str().is_some_and(contains) || value_contains(value, text))
        }
        Value::I32(number) => contains(&number.to_string()),
        Value::I64(number) => contains(&number.to_string()),
        Value::U32(number) => contains(&number.to_string()),
        Value::U64(number) => contains(&number.to_string()),
        Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::EnumNumber(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use runmesh_proto::event::{ExecutionOutput, ExecutionRequested, OutputStream};

    use super::*;

    fn event(payload: impl Into<crate::Payload>) -> Event {
        Event { payload: Some(payload.into()), aggregate_id: "needle".into(), ..Event::default() }
    }

    #[test]
    fn texts_bytes_and_numbers_are_looked_at_and_the_envelope_and_names_are_not() {
        let output = ExecutionOutput {
            stream: OutputStream::Stderr.into(),
            offset: 4711,
            data: "caf\u{c9} \u{1F600}".as_bytes().to_vec().into(),
            ..ExecutionOutput::default()
        };
        let output = event(output);
        for text in ["caf\u{e9} \u{1F600}", "4711"] {
            assert!(payload_contains(&output, text), "{text}");
        }
        for text in ["needle", "stderr", "output"] {
            assert!(!payload_contains(&output, text), "{text}");
        }
        let mut request = ExecutionRequested { script: "print('Needle')".into(), ..ExecutionRequested::default() };
        request.environment.insert("KEY".into(), "Value".into());
        let request = event(request);
        for text in ["needle", "key", "value"] {
            assert!(payload_contains(&request, text), "{text}");
        }
    }
}
