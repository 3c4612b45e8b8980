//! What the service refuses, told in the words of the command line.

use tonic::Status;

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
    super::super::refused::refused(status, &FLAGS)
}

#[cfg(test)]
mod tests {
    use super::{super::super::refused::tests::is_field, *};

    #[test]
    fn every_field_with_a_flag_is_one_of_the_contract() {
        for (field, _) in FLAGS {
            assert!(is_field("runmesh.dlq.v1.DeadLetterService", field), "{field}");
        }
    }
}
