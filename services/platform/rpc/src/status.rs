//! Statuses with the details of `google.rpc`: one function per kind of error, so that every service answers alike.
//!
//! The details travel in a header of at most some kilobytes, so long texts are cut and long lists shortened.

use std::{collections::HashMap, error::Error, time::Duration};

use runmesh_events::ExecutionId;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

/// The domain of every reason that Runmesh gives in an `ErrorInfo`.
pub const DOMAIN: &str = "runmesh";

/// How long a client should wait before it watches again what a node that goes away has cut.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// The most violations that one status lists.
const MAX_VIOLATIONS: usize = 16;
/// The most characters of one text in a status.
const MAX_TEXT: usize = 512;

/// The greatest number of characters of a reason, or of a name.
const MAX_WORDS: usize = 1_000;

/// A field of the request whose value can't be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path in the request, such as `spec.limits.wall_time` or `files[2].path`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Violation {
    /// The field and what is wrong with it.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// Reads the field `execution_id` of a request.
///
/// # Errors
/// It is missing, or no id.
pub fn execution_id(text: &str) -> Result<ExecutionId, Violation> {
    if text.is_empty() {
        return Err(Violation::new("execution_id", "is missing"));
    }
    text.parse().map_err(|error| Violation::new("execution_id", format!("{error}")))
}

/// What is wrong with who has something done and why: both have to be told.
pub fn operator(actor: &str, reason: &str) -> Vec<Violation> {
    let fields = [("actor", actor), ("reason", reason)].into_iter();
    let wrong = fields.filter_map(|(field, text)| {
        if text.trim().is_empty() {
            return Some(Violation::new(field, "is missing"));
        }
        let most = MAX_WORDS;
        (text.chars().count() > most).then(|| Violation::new(field, format!("has more than {most} characters")))
    });
    wrong.collect()
}

/// INVALID_ARGUMENT because of one field.
pub fn invalid_argument(field: impl Into<String>, description: impl Into<String>) -> Status {
    invalid_arguments(vec![Violation::new(field, description)])
}

/// INVALID_ARGUMENT because of several fields. The message names the first ones.
pub fn invalid_arguments(violations: Vec<Violation>) -> Status {
    bad_request(Code::InvalidArgument, "INVALID_ARGUMENT", violations)
}

/// OUT_OF_RANGE: the field's value is of the right kind but beyond what is there, such as a cursor past the end.
pub fn out_of_range(field: impl Into<String>, description: impl Into<String>) -> Status {
    bad_request(Code::OutOfRange, "OUT_OF_RANGE", vec![Violation::new(field, description)])
}

/// NOT_FOUND. `resource_type` in words, such as `execution`; the reason is made of it: `EXECUTION_NOT_FOUND`.
pub fn not_found(resource_type: &str, name: &str) -> Status {
    let name = cut(name);
    let reason = format!("{}_NOT_FOUND", upper_snake(resource_type));
    let message = format!("{resource_type} {name:?} does not exist");
    let mut details = info(&reason, [("resource", name.as_str())]);
    details.set_resource_info(resource_type, name, "", "");
    with(Code::NotFound, message, details)
}

/// ALREADY_EXISTS: `field` names something that is there already, or names it with other content.
pub fn already_exists(field: &str, reason: &str, description: impl Into<String>) -> Status {
    let description = cut(&description.into());
    let mut details = info(reason, [("field", field)]);
    details.add_bad_request_violation(field, &description);
    with(Code::AlreadyExists, format!("{field}: {description}"), details)
}

/// FAILED_PRECONDITION: the resource is not in a state in which this can be done. Trying again changes nothing.
pub fn failed_precondition(reason: &str, description: impl Into<String>) -> Status {
    with(Code::FailedPrecondition, cut(&description.into()), info(reason, []))
}

/// FAILED_PRECONDITION because of several things: the field of each violation is the kind of thing, such as a limit.
pub fn failed_preconditions(reason: &str, description: impl Into<String>, violations: Vec<Violation>) -> Status {
    let mut details = info(reason, []);
    for violation in violations {
        details.add_precondition_failure_violation(reason, cut(&violation.field), cut(&violation.description));
    }
    with(Code::FailedPrecondition, cut(&description.into()), details)
}

/// ABORTED: another change came first. The caller may read again and try again.
pub fn aborted(reason: &str, description: impl Into<String>) -> Status {
    with(Code::Aborted, cut(&description.into()), info(reason, []))
}

/// UNAVAILABLE: the same call may work after `retry_after`.
pub fn unavailable(description: impl Into<String>, retry_after: Duration) -> Status {
    let mut details = info("UNAVAILABLE", []);
    details.set_retry_info(Some(retry_after));
    with(Code::Unavailable, cut(&description.into()), details)
}

/// UNAVAILABLE: the node goes away, and the stream goes on from its last cursor at another one, or at this one later.
pub fn shutting_down() -> Status {
    unavailable("this node shuts down; watch again with the last cursor", RECONNECT_AFTER)
}

/// RESOURCE_EXHAUSTED: a quota or a limit is used up. `retry_after` is `None` where waiting does not help.
pub fn resource_exhausted(reason: &str, description: impl Into<String>, retry_after: Option<Duration>) -> Status {
    let description = cut(&description.into());
    let mut details = info(reason, []);
    details.add_quota_failure_violation(reason, &description);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    with(Code::ResourceExhausted, description, details)
}

/// UNAUTHENTICATED: no credentials, or wrong ones.
pub fn unauthenticated(description: impl Into<String>) -> Status {
    with(Code::Unauthenticated, cut(&description.into()), info("UNAUTHENTICATED", []))
}

/// PERMISSION_DENIED: the caller is known and may not do this.
pub fn permission_denied(description: impl Into<String>) -> Status {
    with(Code::PermissionDenied, cut(&description.into()), info("PERMISSION_DENIED", []))
}

/// UNIMPLEMENTED: there is no such method here.
pub fn unimplemented(description: impl Into<String>) -> Status {
    with(Code::Unimplemented, cut(&description.into()), info("UNIMPLEMENTED", []))
}

/// DEADLINE_EXCEEDED: the time that the caller gave is over.
pub fn deadline_exceeded(description: impl Into<String>) -> Status {
    with(Code::DeadlineExceeded, cut(&description.into()), info("DEADLINE_EXCEEDED", []))
}

/// INTERNAL. The chain of errors is logged under an id; the client learns the id alone.
pub fn internal(error: &(dyn Error + 'static)) -> Status {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    internal_text(&chain)
}

/// INTERNAL, for a failure that is no `Error`, such as a panic's message. As [`internal`].
pub(crate) fn internal_text(chain: &str) -> Status {
    let error_id = format!("{:016x}", rand::random::<u64>());
    tracing::error!(error_id, error = chain, "internal error");
    let details = info("INTERNAL", [("error_id", error_id.as_str())]);
    with(Code::Internal, format!("internal error {error_id}; the server's log has the cause"), details)
}

/// The name of a code, as the gRPC documentation has it, such as `NOT_FOUND`.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn bad_request(code: Code, reason: &str, mut violations: Vec<Violation>) -> Status {
    let more = violations.len().saturating_sub(MAX_VIOLATIONS);
    violations.truncate(MAX_VIOLATIONS);
    let mut message = violations
        .iter()
        .take(3)
        .map(|v| format!("{}: {}", cut(&v.field), cut(&v.description)))
        .collect::<Vec<_>>()
        .join("; ");
    let unnamed = violations.len().saturating_sub(3) + more;
    if unnamed > 0 {
        message.push_str(&format!("; and {unnamed} more"));
    }
    let mut details = info(reason, []);
    let fields: Vec<_> = violations.iter().map(|v| FieldViolation::new(cut(&v.field), cut(&v.description))).collect();
    details.set_bad_request(fields);
    with(code, message, details)
}

fn info<const N: usize>(reason: &str, metadata: [(&str, &str); N]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

fn with(code: Code, message: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code, message, details)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn upper_snake(words: &str) -> String {
    words.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_named_in_the_message_and_in_the_details() {
        let status = invalid_argument("spec.language", "is empty");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "spec.language: is empty");
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].field, "spec.language");
        assert_eq!(status.get_details_error_info().unwrap().domain, DOMAIN);
    }

    #[test]
    fn long_lists_and_texts_are_cut_so_that_the_header_stays_small() {
        let violations = (0..1000).map(|i| Violation::new(format!("f{i}"), "é".repeat(10_000))).collect();
        let status = invalid_arguments(violations);
        assert!(status.message().ends_with("and 997 more"), "{}", status.message());
        assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), MAX_VIOLATIONS);
    }

    #[test]
    fn each_kind_has_its_code_reason_and_details() {
        let status = not_found("dead letter", "17");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.get_details_error_info().unwrap().reason, "DEAD_LETTER_NOT_FOUND");
        assert_eq!(status.get_details_resource_info().unwrap().resource_name, "17");

        let status = resource_exhausted("QUEUE_FULL", "full", Some(Duration::from_secs(3)));
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
        assert_eq!(status.get_details_quota_failure().unwrap().violations[0].description, "full");
        assert!(resource_exhausted("TOO_LARGE", "no", None).get_details_retry_info().is_none());

        assert_eq!(out_of_range("cursor", "is beyond the end").code(), Code::OutOfRange);
        assert_eq!(already_exists("request_id", "REQUEST_ID_REUSED", "other content").code(), Code::AlreadyExists);
        assert_eq!(unavailable("no", Duration::ZERO).code(), Code::Unavailable);
        assert_eq!(unauthenticated("no").code(), Code::Unauthenticated);
    }

    #[test]
    fn an_internal_error_gives_away_an_id_and_nothing_else() {
        let status = internal(&std::io::Error::other("password=hunter2"));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("hunter2"));
        let info = status.get_details_error_info().unwrap();
        assert!(status.message().contains(&info.metadata["error_id"]));
    }
}
