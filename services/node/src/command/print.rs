//! How things are shown to people and machines.

use std::io::Write as _;

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

/// Writes a line to standard output.
pub(super) fn line(text: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}

/// An error and its causes, without those that an outer one has told already.
pub(super) fn chain(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words.push_str(": ");
            words.push_str(&cause);
        }
    }
    words
}

/// A status in words, with the fields that it complains about.
pub(super) fn error(status: &Status) -> anyhow::Error {
    let details = status.get_error_details();
    let mut words = format!("{}: {}", runmesh_rpc::status::code_name(status.code()), status.message());
    let fields = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    let unmet = details.precondition_failure().map(|unmet| unmet.violations.as_slice()).unwrap_or_default();
    let fields = fields.iter().map(|one| (&one.field, &one.description));
    for (field, description) in fields.chain(unmet.iter().map(|one| (&one.subject, &one.description))) {
        if !words.contains(description) {
            words.push_str(&format!("\n  {field}: {description}"));
        }
    }
    anyhow::Error::msg(words)
}
