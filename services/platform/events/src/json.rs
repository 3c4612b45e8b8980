//! Messages of the contract as JSON, and back.

use prost_reflect::{DynamicMessage, MessageDescriptor};

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
