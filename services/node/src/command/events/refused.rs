//! What the service refuses, told in the words of the command line.

use tonic::Status;

/// The flags, or the arguments, behind the fields of the requests.
const FLAGS: [(&str, &str); 16] = [
    ("filter", "the filter's flags"),
    ("filter.event_types", "--type"),
    ("filter.exclude_event_types", "--not-type"),
    ("filter.event_ids", "--id"),
    ("filter.execution_id", "--execution"),
    ("filter.aggregate_id", "--aggregate"),
    ("filter.user_id", "--user"),
    ("filter.producer", "--service"),
    ("filter.correlation_id", "--correlation"),
    ("filter.from", "--since"),
    ("filter.until", "--until"),
    ("filter.text", "--text"),
    ("event_id", "ID"),
    ("cursor", "--cursor"),
    ("format", "--format"),
    ("top_users", "--users"),
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
            assert!(is_field("runmesh.event_log.v1.EventLogService", field), "{field}");
        }
    }
}
