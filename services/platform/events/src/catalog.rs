//! The catalog of event types, read from the options of the enum `EventType`.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use prost_reflect::{DynamicMessage, Value};
use runmesh_proto::event::{Category, EventType, RetryPreset};

/// A name that is no event type's topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the topic of an event type")]
pub struct UnknownTopic(pub String);

/// The settings of one event type's topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// The event type.
    pub event_type: EventType,
    /// The topic's name: the type's, without `EVENT_TYPE_`, in lower case.
    pub name: String,
    /// What the type's events are about.
    pub category: Category,
    /// The number of partitions.
    pub partitions: i32,
    /// How long a record is kept.
    pub retention: Duration,
    /// How a dead letter of the type is delivered again.
    pub retry_preset: RetryPreset,
    /// Whether clients may see events of the type in a stream.
    pub streamable: bool,
}

/// All event types. There is one catalog, [`Catalog::get`].
#[derive(Debug)]
pub struct Catalog {
    topics: Vec<TopicSpec>,
    by_name: HashMap<String, EventType>,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::read);

impl Catalog {
    /// The catalog that was built in.
    pub fn get() -> &'static Self {
        &CATALOG
    }

    #[allow(clippy::expect_used, reason = "the descriptors are built with the crate; a test reads them all")]
    fn read() -> Self {
        let pool = runmesh_proto::descriptors();
        let event_types = pool.get_enum_by_name("runmesh.event.v1.EventType").expect("the enum EventType exists");
        let option = pool.get_extension_by_name("runmesh.event.v1.topic").expect("the option `topic` exists");
        let mut topics: Vec<TopicSpec> = event_types
            .values()
            .filter_map(|value| {
                let event_type = EventType::try_from(value.number()).ok()?;
                if event_type == EventType::Unspecified {
                    return None;
                }
                let options = value.options();
                let spec = options.get_extension(&option);
                let spec = spec.as_message().expect("the option `topic` is a message");
                Some(TopicSpec {
                    event_type,
                    name: topic_name(event_type),
                    category: Category::try_from(number(spec, "category")).unwrap_or_default(),
                    partitions: number(spec, "partitions"),
                    retention: seconds(spec, "retention"),
                    retry_preset: RetryPreset::try_from(number(spec, "retry_preset")).unwrap_or_default(),
                    streamable: spec.get_field_by_name("streamable").and_then(|v| v.as_bool()).unwrap_or_default(),
                })
            })
            .collect();
        topics.sort_by_key(|topic| topic.event_type as i32);
        let by_name = topics.iter().map(|topic| (topic.name.clone(), topic.event_type)).collect();
        Self { topics, by_name }
    }

    /// The topics of all types, by the types' numbers.
    pub fn topics(&self) -> &[TopicSpec] {
        &self.topics
    }

    /// All types, by their numbers.
    pub fn event_types(&self) -> impl Iterator<Item = EventType> {
        self.topics.iter().map(|topic| topic.event_type)
    }

    /// The name of a type's topic. Empty for `EVENT_TYPE_UNSPECIFIED`.
    pub fn name(&self, event_type: EventType) -> &str {
        self.topic(event_type).map_or("", |topic| topic.name.as_str())
    }

    /// The topic of a type. `None` for `EVENT_TYPE_UNSPECIFIED`.
    pub fn topic(&self, event_type: EventType) -> Option<&TopicSpec> {
        self.topics
            .binary_search_by_key(&(event_type as i32), |topic| topic.event_type as i32)
            .ok()
            .map(|index| &self.topics[index])
    }

    /// The type whose topic has this name.
    pub fn event_type(&self, topic: &str) -> Result<EventType, UnknownTopic> {
        self.by_name.get(topic).copied().ok_or_else(|| UnknownTopic(topic.to_owned()))
    }

    /// Whether clients may see events of the type in a stream.
    pub fn streamable(&self, event_type: EventType) -> bool {
        self.topic(event_type).is_some_and(|topic| topic.streamable)
    }
}

fn topic_name(event_type: EventType) -> String {
    event_type.as_str_name().trim_start_matches("EVENT_TYPE_").to_ascii_lowercase()
}

fn number(message: &DynamicMessage, field: &str) -> i32 {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::I32(number) | Value::EnumNumber(number)) => *number,
        _ => 0,
    }
}

fn seconds(message: &DynamicMessage, field: &str) -> Duration {
    let value = message.get_field_by_name(field);
    let seconds = value
        .as_deref()
        .and_then(Value::as_message)
        .and_then(|duration| duration.get_field_by_name("seconds"))
        .and_then(|seconds| seconds.as_i64());
    Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_of_a_type_is_found_both_ways() {
        let catalog = Catalog::get();
        let topic = catalog.topic(EventType::ExecutionRequested).unwrap();
        assert_eq!(topic.name, "execution_requested");
        assert_eq!(catalog.event_type("execution_requested"), Ok(EventType::ExecutionRequested));
        assert!(catalog.event_type("EXECUTION_REQUESTED").is_err());
        assert!(catalog.topic(EventType::Unspecified).is_none());
    }
}
