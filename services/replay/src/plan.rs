//! What a request asks for, checked.

use std::collections::BTreeMap;

use runmesh_events::{Catalog, EventType};
use runmesh_proto::{
    event::EventFilter,
    replay::{ReplayOptions, ReplaySpec},
};
use runmesh_rpc::Violation;
use runmesh_store::EventSelection;

use crate::{source::SourceSpec, target::TargetSpec};

/// The greatest speed.
const FASTEST: f64 = 1_000_000.0;

/// The greatest rate.
const GREATEST_RATE: f64 = 1_000_000.0;

/// How many events are sent together: by default, and at most.
const BATCH: (usize, usize) = (500, 5_000);

/// How often an event is tried again: by default, and at most.
const RETRIES: (u32, u32) = (5, 20);

/// A replay that was checked, as far as that can be done without looking at anything else.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) selection: EventSelection,
    pub(crate) source: SourceSpec,
    pub(crate) target: TargetSpec,
    /// 0: no gaps.
    pub(crate) speed: f64,
    /// In a second. 0: no limit.
    pub(crate) rate: f64,
    pub(crate) preserve_timestamps: bool,
    pub(crate) batch: usize,
    /// `None`: no limit.
    pub(crate) max_events: Option<u64>,
    pub(crate) skip_errors: bool,
    pub(crate) retries: u32,
    pub(crate) dry_run: bool,
}

/// What is wrong, field by field.
#[derive(Debug, Default)]
pub(crate) struct Wrong(pub(crate) Vec<Violation>);

impl Wrong {
    /// A field of the spec.
    pub(crate) fn field(&mut self, field: impl std::fmt::Display, description: impl Into<String>) {
        self.0.push(Violation::new(format!("spec.{field}"), description));
    }
}

impl Plan {
    /// What a spec asks for. `topics` are those that a map may name beside those of event types.
    ///
    /// # Errors
    /// Each field that can't be accepted.
    pub(crate) fn parse(spec: Option<&ReplaySpec>, topics: &[String]) -> Result<Self, Vec<Violation>> {
        let Some(spec) = spec else { return Err(vec![Violation::new("spec", "is missing")]) };
        let mut wrong = Wrong::default();
        let empty = EventFilter::default();
        let filter = spec.filter.as_ref().unwrap_or(&empty);
        let selection = EventSelection::parse(filter).unwrap_or_else(|invalid| {
            for field in invalid {
                wrong.field(format_args!("filter.{}", field.field), field.description);
            }
            EventSelection::default()
        });
        if *filter == empty && !spec.all && spec.source_file.is_empty() {
            wrong.field("filter", "has no condition; to replay everything, set spec.all");
        }
        if *filter != empty && spec.all {
            wrong.field("all", "is set, and the filter has conditions");
        }
        let source = SourceSpec::parse(&spec.source_file, &mut wrong);
        let target = TargetSpec::parse(spec.target.as_ref(), topics, &mut wrong);
        let ReplayOptions {
            speed,
            rate,
            preserve_timestamps,
            batch_size,
            max_events,
            skip_errors,
            retry_attempts,
            dry_run,
        } = spec.options.unwrap_or_default();
        if !(0.0..=FASTEST).contains(&speed) {
            wrong.field("options.speed", "has to be from 0 to 1,000,000");
        }
        if !(0.0..=GREATEST_RATE).contains(&rate) {
            wrong.field("options.rate", "has to be from 0 to 1,000,000");
        }
        let batch = match usize::try_from(batch_size) {
            Ok(0) => BATCH.0,
            Ok(size) if size <= BATCH.1 => size,
            _ => {
                wrong.field("options.batch_size", "has to be from 0 to 5,000");
                BATCH.0
            }
        };
        let max_events = u64::try_from(max_events).unwrap_or_else(|_| {
            wrong.field("options.max_events", "is negative");
            0
        });
        let retries = match retry_attempts.map(u32::try_from) {
            None => RETRIES.0,
            Some(Ok(retries)) if retries <= RETRIES.1 => retries,
            Some(_) => {
                wrong.field("options.retry_attempts", "has to be from 0 to 20");
                0
            }
        };
        if target.as_ref().is_some_and(|target| target.read_model().is_some()) {
            // One that lacks a part of the history would take the place of one that has all of it.
            let words = "has to be absent: a read model is built from the whole log";
            let set = [
                ("filter", *filter != empty),
                ("source_file", !spec.source_file.is_empty()),
                ("options.max_events", max_events > 0),
            ];
            for (field, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
                wrong.field(field, words);
            }
        }
        match target {
            Some(target) if wrong.0.is_empty() => Ok(Self {
                // An operator's order is heard between two batches, and runs may take long.
                batch: target.reruns().map_or(batch, |reruns| batch.min(reruns.parallel)),
                selection,
                source,
                target,
                speed,
                rate,
                preserve_timestamps,
                max_events: Some(max_events).filter(|most| *most > 0),
                skip_errors,
                retries,
                dry_run,
            }),
            _ => Err(wrong.0),
        }
    }

    /// The types that may be among the events.
    pub(crate) fn event_types(&self) -> Vec<EventType> {
        match self.selection.scan().types.as_slice() {
            [] => Catalog::get().event_types().collect(),
            types => types.to_vec(),
        }
    }
}

/// The types whose topics a map sends elsewhere.
pub(crate) fn parse_topic_map(
    map: &BTreeMap<String, String>,
    topics: &[String],
    wrong: &mut Wrong,
) -> BTreeMap<EventType, String> {
    let mut parsed = BTreeMap::new();
    for (from, to) in map {
        let field = format!("topics.topic_map[{from}]");
        match Catalog::get().event_type(from) {
            Err(unknown) => wrong.field(field, unknown.to_string()),
            Ok(event_type) if Catalog::get().topic(event_type).is_some_and(|topic| topic.name == *to) => {
                // Its own topic is where it goes anyway.
            }
            Ok(event_type) if topics.contains(to) => {
                parsed.insert(event_type, to.clone());
            }
            Ok(_) => wrong.field(field, format!("{to:?} is not one of the topics of the setting replay.topics")),
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;
    use runmesh_proto::replay::{FileTarget, GroupTarget, TopicsTarget, replay_spec::Target};

    use super::*;

    fn spec() -> ReplaySpec {
        ReplaySpec { all: true, target: Some(Target::File(FileTarget {})), ..ReplaySpec::default() }
    }

    fn fields(spec: &ReplaySpec) -> Vec<String> {
        let wrong = Plan::parse(Some(spec), &["elsewhere".to_owned()]).unwrap_err();
        wrong.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn what_is_not_given_has_a_default() {
        let plan = Plan::parse(Some(&spec()), &[]).unwrap();
        assert_eq!((plan.batch, plan.retries, plan.max_events), (500, 5, None));
        assert_eq!((plan.source, plan.target), (SourceSpec::Log, TargetSpec::File));
        let options = ReplayOptions { retry_attempts: Some(0), max_events: 7, batch_size: 5_000, ..Default::default() };
        let plan = Plan::parse(Some(&ReplaySpec { options: Some(options), ..spec() }), &[]).unwrap();
        assert_eq!((plan.batch, plan.retries, plan.max_events), (5_000, 0, Some(7)));
    }

    #[test]
    fn what_is_meant_has_to_be_said() {
        assert_eq!(Plan::parse(None, &[]).unwrap_err()[0].field, "spec");
        assert_eq!(fields(&ReplaySpec::default()), ["spec.filter", "spec.target"]);
        let filter = Some(EventFilter { user_id: "ann".into(), ..Default::default() });
        assert_eq!(fields(&ReplaySpec { filter: filter.clone(), ..spec() }), ["spec.all"]);
        assert!(Plan::parse(Some(&ReplaySpec { filter, all: false, ..spec() }), &[]).is_ok());
        let file = ReplaySpec { all: false, source_file: "a.ndjson".into(), ..spec() };
        assert!(Plan::parse(Some(&file), &[]).is_ok(), "a file is what is meant");
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        let filter = EventFilter {
            event_types: vec![9_999],
            from: Some(Timestamp { seconds: 2, nanos: 0 }),
            until: Some(Timestamp { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let options = ReplayOptions {
            speed: -1.0,
            rate: f64::NAN,
            batch_size: 5_001,
            max_events: -1,
            retry_attempts: Some(21),
            ..Default::default()
        };
        let map = [("execution_requested", "elsewhere"), ("pod_created", "nowhere"), ("no_topic", "elsewhere")];
        let topic_map = map.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let spec = ReplaySpec {
            filter: Some(filter),
            source_file: "../secret.ndjson".into(),
            target: Some(Target::Topics(TopicsTarget { topic_map })),
            options: Some(options),
            ..Default::default()
        };
        let expected = [
            "spec.filter.event_types[0]",
            "spec.filter.until",
            "spec.source_file",
            "spec.topics.topic_map[no_topic]",
            "spec.topics.topic_map[pod_created]",
            "spec.options.speed",
            "spec.options.rate",
            "spec.options.batch_size",
            "spec.options.max_events",
            "spec.options.retry_attempts",
        ];
        assert_eq!(fields(&spec), expected);
        let group = Target::Group(GroupTarget::default());
        assert_eq!(fields(&ReplaySpec { target: Some(group), all: true, ..Default::default() }), ["spec.group.group"]);
    }
}
