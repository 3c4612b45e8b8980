//! Which events a client's filter means.

use std::{collections::BTreeSet, time::SystemTime};

use runmesh_events::{AggregateId, Catalog, Event, EventId, EventType, from_timestamp, payload_contains};
use runmesh_proto::event::EventFilter;

use crate::Filter;

/// The greatest number of ids.
const IDS: usize = 1_000;

/// The greatest number of characters of a value.
const CHARACTERS: usize = 1_000;

/// A field of a filter that can't be accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// The field's path in the filter, such as `event_types[2]`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// A filter that was checked. The default means all events.
#[derive(Debug, Clone, Default)]
pub struct EventSelection {
    /// What a scan leaves out by itself.
    scan: Filter,
    ids: BTreeSet<EventId>,
    user_id: String,
    producer: String,
    correlation_id: String,
    /// In lower case.
    text: String,
    is_empty: bool,
}

impl EventSelection {
    /// What a filter means.
    ///
    /// # Errors
    /// Each field that can't be accepted.
    pub fn parse(filter: &EventFilter) -> Result<Self, Vec<InvalidField>> {
        let mut wrong = Wrong::default();
        let only = wrong.types("event_types", &filter.event_types);
        let without = wrong.types("exclude_event_types", &filter.exclude_event_types);
        if filter.event_ids.len() > IDS {
            wrong.field("event_ids", "has more than 1,000 values");
        }
        let ids = filter.event_ids.iter().enumerate().filter_map(|(place, text)| {
            text.parse().map_err(|error| wrong.field(format!("event_ids[{place}]"), format!("{error}"))).ok()
        });
        let ids = ids.collect();
        let texts = [
            ("execution_id", &filter.execution_id),
            ("aggregate_id", &filter.aggregate_id),
            ("user_id", &filter.user_id),
            ("producer", &filter.producer),
            ("correlation_id", &filter.correlation_id),
            ("text", &filter.text),
        ];
        for (field, text) in texts {
            if text.chars().count() > CHARACTERS {
                wrong.field(field, "has more than 1,000 characters");
            }
        }
        let aggregate = match (filter.execution_id.as_str(), filter.aggregate_id.as_str()) {
            (execution, "") => execution,
            ("", aggregate) => aggregate,
            (execution, aggregate) => {
                if execution != aggregate {
                    wrong.field("aggregate_id", "is another log than that of execution_id");
                }
                execution
            }
        };
        let from = wrong.time("from", filter.from.as_ref());
        let until = wrong.time("until", filter.until.as_ref());
        if let (Some(from), Some(until)) = (from, until)
            && from >= until
        {
            wrong.field("until", "is not after from");
        }
        let types = Self::remaining(&only, &without);
        if types.as_ref().is_some_and(Vec::is_empty) {
            wrong.field("exclude_event_types", "leaves no event type");
        }
        if !wrong.0.is_empty() {
            return Err(wrong.0);
        }
        let aggregate = (!aggregate.is_empty()).then(|| AggregateId::from(aggregate));
        Ok(Self {
            scan: Filter { types: types.unwrap_or_default(), aggregate, from, until },
            ids,
            user_id: filter.user_id.clone(),
            producer: filter.producer.clone(),
            correlation_id: filter.correlation_id.clone(),
            text: filter.text.to_lowercase(),
            is_empty: *filter == EventFilter::default(),
        })
    }

    /// The types that are left. `None`: all.
    fn remaining(only: &[EventType], without: &[EventType]) -> Option<Vec<EventType>> {
        if only.is_empty() && without.is_empty() {
            return None;
        }
        let all = Catalog::get().event_types();
        let is_left =
            |event_type: &EventType| (only.is_empty() || only.contains(event_type)) && !without.contains(event_type);
        Some(all.filter(is_left).collect())
    }

    /// Whether the filter has no conditions.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// What a scan is asked for. It yields all that is meant, and maybe more: see [`EventSelection::matches`].
    pub fn scan(&self) -> &Filter {
        &self.scan
    }

    /// The ids, where only certain events are meant: they are quicker to get than to look for. Empty: any.
    pub fn ids(&self) -> &BTreeSet<EventId> {
        &self.ids
    }

    /// The end of the time that is meant, if it has one.
    pub fn until(&self) -> Option<SystemTime> {
        self.scan.until
    }

    /// Whether an event is meant.
    pub fn matches(&self, event: &Event) -> bool {
        let equal = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let event_type = event.payload.as_ref().map(|payload| payload.event_type());
        (self.scan.types.is_empty() || event_type.is_some_and(|found| self.scan.types.contains(&found)))
            && self.scan.aggregate.as_ref().is_none_or(|wanted| wanted.as_str() == event.aggregate_id)
            && (self.ids.is_empty() || event.event_id.parse().is_ok_and(|id| self.ids.contains(&id)))
            && equal(&self.user_id, &event.user_id)
            && equal(&self.producer, &event.producer)
            && equal(&self.correlation_id, &event.correlation_id)
            && self.is_in_time(event)
            && (self.text.is_empty() || payload_contains(event, &self.text))
    }

    fn is_in_time(&self, event: &Event) -> bool {
        let (from, until) = (self.scan.from, self.scan.until);
        if from.is_none() && until.is_none() {
            return true;
        }
        let at = event.occurred_at.as_ref().and_then(from_timestamp);
        at.is_some_and(|at| from.is_none_or(|from| at >= from) && until.is_none_or(|until| at < until))
    }
}

/// What is wrong with a filter.
#[derive(Default)]
struct Wrong(Vec<InvalidField>);

impl Wrong {
    fn field(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(InvalidField { field: field.into(), description: description.into() });
    }

    fn types(&mut self, field: &str, numbers: &[i32]) -> Vec<EventType> {
        let mut types = Vec::with_capacity(numbers.len());
        for (place, number) in numbers.iter().enumerate() {
            match EventType::try_from(*number).ok().filter(|found| Catalog::get().topic(*found).is_some()) {
                Some(event_type) => types.push(event_type),
                None => {
                    self.field(format!("{field}[{place}]"), format!("{number} is no event type that is known here"))
                }
            }
        }
        types
    }

    fn time(&mut self, field: &str, time: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
        let parsed = time.map(from_timestamp)?;
        if parsed.is_none() {
            self.field(field, "is not a time from 1970 to 9999");
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost_types::Timestamp;
    use runmesh_proto::event::{ExecutionCompleted, ExecutionFailed};

    use super::*;

    fn event(payload: impl Into<runmesh_events::Payload>) -> Event {
        Event {
            event_id: EventId::new().to_string(),
            aggregate_id: "a".into(),
            user_id: "ann".into(),
            producer: "runner".into(),
            correlation_id: "c".into(),
            occurred_at: Some(Timestamp { seconds: 100, nanos: 0 }),
            payload: Some(payload.into()),
            ..Event::default()
        }
    }

    #[test]
    fn each_condition_leaves_out_what_it_does_not_mean() {
        let completed = event(ExecutionCompleted { execution_id: "a".into(), ..Default::default() });
        let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let filters = [
            EventFilter { event_types: vec![EventType::ExecutionCompleted.into()], ..Default::default() },
            EventFilter { exclude_event_types: vec![EventType::ExecutionFailed.into()], ..Default::default() },
            EventFilter { event_ids: vec![completed.event_id.clone()], ..Default::default() },
            EventFilter { execution_id: "a".into(), aggregate_id: "a".into(), ..Default::default() },
            EventFilter { user_id: "ann".into(), ..Default::default() },
            EventFilter { producer: "runner".into(), ..Default::default() },
            EventFilter { correlation_id: "c".into(), ..Default::default() },
            EventFilter { from: time(100), until: time(101), ..Default::default() },
            EventFilter { text: "A".into(), ..Default::default() },
        ];
        let mut other = event(ExecutionFailed { execution_id: "b".into(), ..Default::default() });
        (other.aggregate_id, other.user_id, other.producer) = ("b".into(), "bob".into(), "saga".into());
        (other.correlation_id, other.occurred_at) = ("d".into(), time(101));
        for filter in filters {
            let selection = EventSelection::parse(&filter).unwrap();
            assert!(selection.matches(&completed), "{filter:?}");
            assert!(!selection.matches(&other), "{filter:?}");
            assert!(!selection.is_empty(), "{filter:?}");
        }
        let all = EventSelection::parse(&EventFilter::default()).unwrap();
        assert!(all.is_empty() && all.matches(&completed) && all.matches(&other));
    }

    #[test]
    fn fields_that_can_not_be_accepted_are_named() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let filter = EventFilter {
            event_types: vec![EventType::ExecutionFailed.into(), 9_999],
            exclude_event_types: vec![0],
            event_ids: vec!["x".into()],
            execution_id: "a".into(),
            aggregate_id: "b".into(),
            from: at(2),
            until: at(2),
            text: "t".repeat(1_001),
            ..Default::default()
        };
        let fields: Vec<_> =
            EventSelection::parse(&filter).unwrap_err().into_iter().map(|invalid| invalid.field).collect();
        let expected = ["event_types[1]", "exclude_event_types[0]", "event_ids[0]", "text", "aggregate_id", "until"];
        assert_eq!(fields, expected);
        let nothing = EventFilter {
            event_types: vec![EventType::ExecutionFailed.into()],
            exclude_event_types: vec![EventType::ExecutionFailed.into()],
            from: Some(Timestamp { seconds: -1, nanos: 0 }),
            ..Default::default()
        };
        let fields: Vec<_> =
            EventSelection::parse(&nothing).unwrap_err().into_iter().map(|invalid| invalid.field).collect();
        assert_eq!(fields, ["from", "exclude_event_types"]);
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let until = EventFilter { until: at(5), ..Default::default() };
        assert_eq!(EventSelection::parse(&until).unwrap().until(), Some(late));
    }
}
