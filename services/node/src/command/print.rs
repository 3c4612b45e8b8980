//! How things are shown to people and machines.

use std::io::Write as _;

use anyhow::Context as _;
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

/// A message of the contract as a line of canonical protobuf JSON.
pub(super) fn message(message: &impl Message, name: &str) -> anyhow::Result<()> {
    let descriptor = runmesh_proto::descriptors()
        .get_message_by_name(name)
        .with_context(|| format!("the contract has no message {name}"))?;
    Ok(line(json(&dynamic(message, descriptor)?)?)?)
}

/// Text on one line that does nothing to the terminal: what scripts and handlers say is not to be trusted.
pub(super) fn plain(text: &str) -> String {
    let shown = text.trim_end().chars().map(|letter| match letter {
        '\n' | '\r' | '\t' => ' ',
        letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
        letter => letter,
    });
    shown.collect()
}

/// The beginning of a text.
pub(super) fn beginning(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
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
    let mut words = in_words(status);
    for (field, description) in violations(status) {
        if !words.contains(&description) {
            words.push_str(&format!("\n  {field}: {description}"));
        }
    }
    anyhow::Error::msg(words)
}

/// A status in words.
pub(super) fn in_words(status: &Status) -> String {
    format!("{}: {}", runmesh_rpc::status::code_name(status.code()), status.message())
}

/// The fields that a status complains about, and why.
pub(super) fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let fields = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let unmet = details.precondition_failure().map(|unmet| unmet.violations.clone()).unwrap_or_default();
    let fields = fields.into_iter().map(|one| (one.field, one.description));
    fields.chain(unmet.into_iter().map(|one| (one.subject, one.description))).collect()
}
