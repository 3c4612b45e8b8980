//! What the service refuses, told in the words of the command line.

use tonic::Status;

use super::print;

/// The flags, or the arguments, behind the fields of the requests.
const FLAGS: [(&str, &str); 29] = [
    ("filter", "the filter's flags"),
    ("filter.event_types", "--type"),
    ("filter.groups", "--group"),
    ("filter.states", "--state"),
    ("filter.fingerprints", "--fingerprint"),
    ("filter.aggregate_id", "--aggregate"),
    ("filter.failed_from", "--since"),
    ("filter.failed_until", "--until"),
    ("filter.text", "--text"),
    ("filter.dead_letter_ids", "--id"),
    ("dead_letter_id", "ID"),
    ("dead_letter_ids", "ID"),
    ("redrive_id", "ID"),
    ("plan_token", "PLAN"),
    ("event_type", "TOPIC"),
    ("group", "--group"),
    ("cursor", "--cursor"),
    ("payload_json", "--payload"),
    ("reason", "--reason"),
    ("actor", "--actor"),
    ("rate", "--rate"),
    ("canary", "--canary"),
    ("canary_failures", "--canary-failures"),
    ("policy.preset", "--preset"),
    ("policy.max_retries", "--retries"),
    ("policy.first_wait", "--first-wait"),
    ("policy.max_wait", "--max-wait"),
    ("policy.multiplier", "--multiplier"),
    ("policy.jitter", "--jitter"),
];

/// A status in words that name flags rather than fields.
pub(super) fn refused(status: &Status) -> anyhow::Error {
    let mut words = print::in_words(status);
    for (field, description) in print::violations(status) {
        let told = format!("{field}: {description}");
        // Of a list, the field has the entry's index, and of a message it may go on.
        let field = field.split('[').next().unwrap_or_default();
        match FLAGS.iter().find(|(name, _)| *name == field) {
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
mod tests {
    use prost_reflect::{Kind, MessageDescriptor};
    use runmesh_rpc::status::{self, Violation};

    use super::*;

    #[test]
    fn a_field_is_told_by_its_flag() {
        let one = refused(&status::invalid_argument("reason", "is empty"));
        assert_eq!(one.to_string(), "INVALID_ARGUMENT: --reason: is empty");
        let several = vec![
            Violation::new("filter.event_types[1]", "is unknown"),
            Violation::new("policy.jitter", "is too large"),
            Violation::new("something.else", "is odd"),
        ];
        let words = refused(&status::invalid_arguments(several)).to_string();
        for told in ["--type: is unknown", "--jitter: is too large", "something.else: is odd"] {
            assert!(words.contains(told), "{words}");
        }
        assert!(!words.contains("policy.jitter"), "{words}");
    }

    #[test]
    fn every_field_with_a_flag_is_one_of_the_contract() {
        let has = |message: &MessageDescriptor, path: &str| {
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
        let pool = runmesh_proto::descriptors();
        let service = pool.get_service_by_name("runmesh.dlq.v1.DeadLetterService").unwrap();
        for (field, _) in FLAGS {
            assert!(service.methods().any(|method| has(&method.input(), field)), "{field}");
        }
    }
}
