//! Messages of the contract as JSON, and back.

use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use runmesh_proto::event::Event;

/// The name of the envelope in the contract.
pub const EVENT: &str = "runmesh.event.v1.Event";

/// The descriptor of a message of the contract.
pub fn descriptor(name: &str) -> Option<MessageDescriptor> {
    runmesh_proto::descriptors().get_message_by_name(name)
}

/// The JSON of an encoded message. Empty: it can't be decoded.
pub fn of_bytes(name: &str, bytes: &[u8]) -> String {
    let message = descriptor(name).and_then(|descriptor| DynamicMessage::decode(descriptor, bytes).ok());
    message.and_then(|message| serde_json::to_string(&message).ok()).unwrap_or_default()
}

/// The JSON of a message.
pub fn of<M: prost::Message>(name: &str, message: &M) -> String {
    of_bytes(name, &message.encode_to_vec())
}

/// The JSON of an event's payload, without the envelope. Empty: it has none.
pub fn of_payload(event: &Event) -> String {
    let Some(payload) = &event.payload else { return String::new() };
    let alone = Event { payload: Some(payload.clone()), ..Event::default() }.encode_to_vec();
    let message = descriptor(EVENT).and_then(|descriptor| DynamicMessage::decode(descriptor, alone.as_slice()).ok());
    let payload = message.as_ref().and_then(|message| message.fields().next()).map(|(_, value)| value);
    payload.and_then(Value::as_message).and_then(|payload| serde_json::to_string(payload).ok()).unwrap_or_default()
}

/// The message that a JSON text is of.
///
/// # Errors
/// In words, why it is of none.
pub fn parse(descriptor: MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(descriptor, &mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(message)
}
