//! The filter that the flags are.

use std::time::SystemTime;

use runmesh_events::to_timestamp;
use runmesh_proto::dlq::DeadLetterFilter;

use crate::cli::{dlq::FilterArgs, lists::When};

/// The filter, as of now.
pub(super) fn filter(args: FilterArgs, now: SystemTime) -> DeadLetterFilter {
    let time = |when: When| to_timestamp(when.before(now));
    let mut states: Vec<i32> =
        args.states.into_iter().flat_map(|state| state.states()).map(|state| state as i32).collect();
    states.sort_unstable();
    states.dedup();
    DeadLetterFilter {
        event_types: args.types.into_iter().map(|event_type| event_type as i32).collect(),
        groups: args.groups,
        states,
        fingerprints: args.fingerprints,
        aggregate_id: args.aggregate.unwrap_or_default(),
        failed_from: args.since.map(time),
        failed_until: args.until.map(time),
        text: args.text.unwrap_or_default(),
        dead_letter_ids: args.ids,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runmesh_proto::{dlq::DeadLetterState, event::EventType};

    use super::*;
    use crate::cli::dlq::StateArg;

    #[test]
    fn each_flag_has_its_field() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(7_200);
        let args = FilterArgs {
            types: vec![EventType::ExecutionRequested],
            groups: vec!["runner".to_owned()],
            states: vec![StateArg::Parked, StateArg::Parked],
            fingerprints: vec!["f".to_owned()],
            aggregate: Some("a".to_owned()),
            since: Some(When::Ago(Duration::from_secs(3_600))),
            until: Some(When::At(now)),
            text: Some("refused".to_owned()),
            ids: vec!["i".to_owned()],
        };
        let expected = DeadLetterFilter {
            event_types: vec![EventType::ExecutionRequested.into()],
            groups: vec!["runner".to_owned()],
            states: vec![DeadLetterState::Parked.into()],
            fingerprints: vec!["f".to_owned()],
            aggregate_id: "a".to_owned(),
            failed_from: Some(to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(3_600))),
            failed_until: Some(to_timestamp(now)),
            text: "refused".to_owned(),
            dead_letter_ids: vec!["i".to_owned()],
        };
        assert_eq!(filter(args, now), expected);
        assert_eq!(filter(FilterArgs::default(), now), DeadLetterFilter::default());
    }
}
