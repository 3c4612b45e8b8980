//! How things are shown to people and machines.

use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::Status;
use tonic_types::StatusExt as _;

/// A message as a line of canonical protobuf JSON. Bytes are base64, so nothing is lost.
pub(super) fn json(message: &DynamicMessage) -> anyhow::Result<String> {
    Ok(serde_json::to_string(message)?)
}

/// A message of the contract as one that knows its fields' names.
pub(super) fn dynamic(message: &impl Message, descriptor: MessageDescriptor) -> anyhow::Result<DynamicMessage> {
    Ok(DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?)
}

/// A status in words, with the fields that it complains about.
pub(super) fn error(status: &Status) -> anyhow::Error {
    let details = status.get_error_details();
    let mut words = format!("{}: {}", runmesh_rpc::status::code_name(status.code()), status.message());
    for violation in details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default() {
        words.push_str(&format!("\n  {}: {}", violation.field, violation.description));
    }
    anyhow::Error::msg(words)
}
