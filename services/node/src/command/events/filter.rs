//! The filter that the flags are.

use std::time::SystemTime;

use runmesh_events::to_timestamp;
use runmesh_proto::event::{EventFilter, EventType};

use crate::cli::{events::FilterArgs, lists::When};

/// The filter, as of now.
pub(in crate::command) fn filter(args: FilterArgs, now: SystemTime) -> EventFilter {
    let time = |when: When| to_timestamp(when.before(now));
    let types = |types: Vec<EventType>| types.into_iter().map(i32::from).collect();
    EventFilter {
        event_types: types(args.types),
        exclude_event_types: types(args.excluded),
        event_ids: args.ids,
        execution_id: args.execution.unwrap_or_default(),
        aggregate_id: args.aggregate.unwrap_or_default(),
        user_id: args.user.unwrap_or_default(),
        producer: args.service.unwrap_or_default(),
        correlation_id: args.correlation.unwrap_or_default(),
        from: args.since.map(time),
        until: args.until.map(time),
        text: args.text.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_flag_has_its_field() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(7_200);
        let args = FilterArgs {
            types: vec![EventType::PodCreated],
            excluded: vec![EventType::PodFailed],
            execution: Some("e".to_owned()),
            aggregate: Some("a".to_owned()),
            user: Some("u".to_owned()),
            service: Some("s".to_owned()),
            correlation: Some("c".to_owned()),
            since: Some(When::Ago(Duration::from_secs(3_600))),
            until: Some(When::At(now)),
            text: Some("t".to_owned()),
            ids: vec!["i".to_owned()],
        };
        let expected = EventFilter {
            event_types: vec![EventType::PodCreated.into()],
            exclude_event_types: vec![EventType::PodFailed.into()],
            event_ids: vec!["i".to_owned()],
            execution_id: "e".to_owned(),
            aggregate_id: "a".to_owned(),
            user_id: "u".to_owned(),
            producer: "s".to_owned(),
            correlation_id: "c".to_owned(),
            from: Some(to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(3_600))),
            until: Some(to_timestamp(now)),
            text: "t".to_owned(),
        };
        assert_eq!(filter(args, now), expected);
        assert_eq!(filter(FilterArgs::default(), now), EventFilter::default());
    }
}
