//! What the service refuses, told in the words of the command line.

use tonic::Status;

/// The flags, or the arguments, behind the fields of the requests.
const FLAGS: [(&str, &str); 50] = [
    ("spec.filter", "the filter's flags"),
    ("spec.filter.event_types", "--type"),
    ("spec.filter.exclude_event_types", "--not-type"),
    ("spec.filter.event_ids", "--id"),
    ("spec.filter.execution_id", "--execution"),
    ("spec.filter.aggregate_id", "--aggregate"),
    ("spec.filter.user_id", "--user"),
    ("spec.filter.producer", "--service"),
    ("spec.filter.correlation_id", "--correlation"),
    ("spec.filter.from", "--since"),
    ("spec.filter.until", "--until"),
    ("spec.filter.text", "--text"),
    ("spec.all", "--all"),
    ("spec.source_file", "--from-file"),
    ("spec.topics.topic_map", "--map"),
    ("spec.group.group", "--to-group"),
    ("spec.projection.read_model", "--to-projection"),
    ("spec.rerun.options.parallel", "--parallel"),
    ("spec.rerun.options.limits.wall_time", "--timeout"),
    ("spec.rerun.options.limits.cpu_time", "--cpu-time"),
    ("spec.rerun.options.limits.cpu_millis", "--cpus"),
    ("spec.rerun.options.limits.memory_bytes", "--memory"),
    ("spec.rerun.options.limits.processes", "--processes"),
    ("spec.rerun.options.limits.disk_bytes", "--disk"),
    ("spec.rerun.options.limits.file_bytes", "--file-size"),
    ("spec.rerun.options.limits.output_bytes", "--output-size"),
    ("spec.shadow.options.parallel", "--parallel"),
    ("spec.shadow.options.limits.wall_time", "--timeout"),
    ("spec.shadow.options.limits.cpu_time", "--cpu-time"),
    ("spec.shadow.options.limits.cpu_millis", "--cpus"),
    ("spec.shadow.options.limits.memory_bytes", "--memory"),
    ("spec.shadow.options.limits.processes", "--processes"),
    ("spec.shadow.options.limits.disk_bytes", "--disk"),
    ("spec.shadow.options.limits.file_bytes", "--file-size"),
    ("spec.shadow.options.limits.output_bytes", "--output-size"),
    ("spec.shadow.slower", "--slower"),
    ("spec.shadow.larger", "--larger"),
    ("spec.options.speed", "--speed"),
    ("spec.options.rate", "--rate"),
    ("spec.options.batch_size", "--batch-size"),
    ("spec.options.max_events", "--max-events"),
    ("spec.options.retry_attempts", "--retries"),
    ("replay_id", "ID"),
    ("request_id", "--request-id"),
    ("ended_before", "--ended-before"),
    ("actor", "--actor"),
    ("reason", "--reason"),
    ("cursor", "--cursor"),
    ("page_size", "--limit"),
    ("page_token", "the page"),
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
            assert!(is_field("runmesh.replay.v1.ReplayService", field), "{field}");
        }
    }
}
