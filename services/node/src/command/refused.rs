//! What the service refuses, told in the words of the command line.

use tonic::Status;

use super::print;

/// A status in words that name flags rather than fields: `flags` has the fields of the requests, and the flags, or the
/// arguments, behind them.
pub(super) fn refused(status: &Status, flags: &[(&str, &str)]) -> anyhow::Error {
    let mut words = print::in_words(status);
    for (field, description) in print::violations(status) {
        let told = format!("{field}: {description}");
        // Of a list, the field has the entry's index, and of a message it may go on.
        let field = field.split('[').next().unwrap_or_default();
        match flags.iter().find(|(name, _)| *name == field) {
            Some((_, flag)) if words.contains(&told) => {
                words = words.replacen(&told, &format!("{flag}: {description}"), 1);
            }
            Some((_, flag)) => words.push_str(&format!("\n  {flag}: {description}")),
            None if words.contains(&description) => {}
            None => words.push_str(&format!("\n  {told}")),
        }
    }
    anyhow::Error::msg(words)
}

#[cfg(test)]
pub(super) mod tests {
    use prost_reflect::{Kind, MessageDescriptor};
    use runmesh_rpc::status::{self, Violation};

    use super::*;

    #[test]
    fn a_field_is_told_by_its_flag() {
        let flags = [("filter.event_types", "--type"), ("policy.jitter", "--jitter"), ("reason", "--reason")];
        let one = refused(&status::invalid_argument("reason", "is empty"), &flags);
        assert_eq!(one.to_string(), "INVALID_ARGUMENT: --reason: is empty");
        let several = vec![
            Violation::new("filter.event_types[1]", "is unknown"),
            Violation::new("policy.jitter", "is too large"),
            Violation::new("something.else", "is odd"),
        ];
        let words = refused(&status::invalid_arguments(several), &flags).to_string();
        for told in ["--type: is unknown", "--jitter: is too large", "something.else: is odd"] {
            assert!(words.contains(told), "{words}");
        }
        assert!(!words.contains("policy.jitter"), "{words}");
    }

    /// Whether a method of a service has a field with this path in its request.
    pub(in crate::command) fn is_field(service: &str, path: &str) -> bool {
        let has = |message: &MessageDescriptor| {
            let mut message = message.clone();
            path.split('.').all(|name| match message.get_field_by_name(name) {
                Some(field) => {
                    if let Kind::Message(inner) = field.kind() {
                        message = inner;
                    }
                    true
                }
                None => false,
            })
        };
        let service = runmesh_proto::descriptors().get_service_by_name(service).unwrap();
        service.methods().any(|method| has(&method.input()))
    }
}
