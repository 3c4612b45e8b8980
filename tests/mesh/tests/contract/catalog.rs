//! The enum EventType, the oneof of the envelope, the options of the topics and the table of all types say the same.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};
use runmesh_events::Catalog;
use runmesh_proto::event::EventType;

/// The 57 types that Runmesh was asked for.
const TABLE: &str = include_str!("../../data/event-catalog.tsv");

/// The type that carries live output, which the table does not have: its settings as a row of the table.
const OUTPUT: &str = "execution_output\texecution\t6\t7\taggressive\tyes\t-\t\
    execution_id:str; stream:OutputStream; offset:int; data:bytes";

/// The type that records what operators do about dead letters, which the table does not have either.
const OPERATION: &str = "dlq_operation_recorded\tdlq\t3\t7\tdefault\tno\t-\t\
    operation:str; actor:str; reason:str; target:str; request_json:str";

/// The type that records what operators do otherwise, which the table does not have either.
const ACTION: &str = "operator_action_recorded\tsystem\t3\t30\tdefault\tno\t-\t\
    operation:str; actor:str; reason:str; target:str; request_json:str";

/// The payloads that have fields beyond their rows, numbered from [`FIRST_EXTRA_FIELD`] on.
const EXTENDED: [&str; 17] = [
    "execution_requested",
    "execution_accepted",
    "execution_queued",
    "pod_terminated",
    "create_pod_command",
    "allocate_resources_command",
    "release_resources_command",
    "execution_started",
    "execution_running",
    "execution_completed",
    "execution_failed",
    "execution_timeout",
    "execution_cancelled",
    "execution_output",
    "dlq_message_received",
    "dlq_message_retried",
    "dlq_message_discarded",
];
const FIRST_EXTRA_FIELD: u32 = 20;

/// A row of the table.
struct Row {
    name: String,
    category: String,
    partitions: i32,
    retention: Duration,
    retry_preset: String,
    streamable: bool,
    fields: Vec<(String, String)>,
}

fn rows() -> anyhow::Result<Vec<Row>> {
    TABLE
        .lines()
        .skip(1)
        .chain([OUTPUT, OPERATION, ACTION])
        .map(|line| row(line).with_context(|| format!("the row {line:?}")))
        .collect()
}

fn row(line: &str) -> anyhow::Result<Row> {
    let columns: Vec<&str> = line.split('\t').collect();
    ensure!(columns.len() == 8, "{} columns", columns.len());
    let fields = columns[7]
        .split(';')
        .map(|field| field.trim().split_once(':').context("a field without a type"))
        .map(|field| field.map(|(name, kind)| (name.to_owned(), kind.to_owned())))
        .collect::<anyhow::Result<_>>()?;
    Ok(Row {
        name: columns[0].to_owned(),
        category: columns[1].to_owned(),
        partitions: columns[2].parse()?,
        retention: Duration::from_secs(columns[3].parse::<u64>()? * 24 * 60 * 60),
        retry_preset: columns[4].to_owned(),
        streamable: columns[5] == "yes",
        fields,
    })
}

fn event() -> anyhow::Result<MessageDescriptor> {
    runmesh_proto::descriptors().get_message_by_name("runmesh.event.v1.Event").context("no message Event")
}

#[test]
fn the_enum_the_oneof_and_the_table_have_the_same_types() -> anyhow::Result<()> {
    let rows = rows()?;
    assert_eq!(rows.len(), 60);
    let mut wanted: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    wanted.sort_unstable();

    let topics = Catalog::get().topics();
    let mut of_enum: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
    of_enum.sort_unstable();
    assert_eq!(of_enum, wanted, "the enum and the table");

    let oneof = event()?.oneofs().find(|oneof| oneof.name() == "payload").context("no oneof payload")?;
    let payloads: Vec<FieldDescriptor> = oneof.fields().collect();
    let mut of_oneof: Vec<&str> = payloads.iter().map(FieldDescriptor::name).collect();
    of_oneof.sort_unstable();
    assert_eq!(of_oneof, wanted, "the oneof and the table");

    for payload in &payloads {
        let event_type = Catalog::get().event_type(payload.name())?;
        assert_eq!(payload.number(), event_type as u32 + 100, "the number of {}", payload.name());
        let message = payload.kind().as_message().map(|message| message.name().to_owned()).context("not a message")?;
        assert_eq!(message, camel(payload.name()), "the message of {}", payload.name());
    }
    Ok(())
}

#[test]
fn the_options_of_every_topic_are_those_of_the_table() -> anyhow::Result<()> {
    for row in rows()? {
        let event_type = Catalog::get().event_type(&row.name)?;
        assert_eq!(event_type.as_str_name(), format!("EVENT_TYPE_{}", row.name.to_uppercase()));
        let topic = Catalog::get().topic(event_type).with_context(|| format!("{} has no options", row.name))?;
        assert_eq!(topic.partitions, row.partitions, "partitions of {}", row.name);
        assert_eq!(topic.retention, row.retention, "retention of {}", row.name);
        assert_eq!(topic.streamable, row.streamable, "whether {} is streamable", row.name);
        let category = format!("CATEGORY_{}", row.category.to_uppercase());
        assert_eq!(topic.category.as_str_name(), category, "category of {}", row.name);
        let preset = format!("RETRY_PRESET_{}", row.retry_preset.to_uppercase());
        assert_eq!(topic.retry_preset.as_str_name(), preset, "retries of {}", row.name);
    }
    assert!(Catalog::get().topic(EventType::Unspecified).is_none());
    Ok(())
}

#[test]
fn the_fields_of_every_payload_are_those_of_the_table() -> anyhow::Result<()> {
    for row in rows()? {
        let payload = event()?.get_field_by_name(&row.name).with_context(|| format!("no payload {}", row.name))?;
        let message = payload.kind().as_message().context("a payload is a message")?.clone();
        for (index, (name, kind)) in row.fields.iter().enumerate() {
            let name = name.strip_suffix("_seconds").unwrap_or(name);
            let field = message.get_field_by_name(name).with_context(|| format!("{}.{name} is missing", row.name))?;
            assert_eq!(field.number() as usize, index + 1, "the number of {}.{name}", row.name);
            let wanted = wanted(&row.fields[index].0, kind);
            ensure!(wanted.contains(&actual(&field)), "{}.{name} is {}, not {wanted:?}", row.name, actual(&field));
        }
        for field in message.fields().skip(row.fields.len()) {
            ensure!(EXTENDED.contains(&row.name.as_str()), "{}.{} is not in the table", row.name, field.name());
            ensure!(
                field.number() >= FIRST_EXTRA_FIELD,
                "{}.{} is numbered {}",
                row.name,
                field.name(),
                field.number()
            );
        }
    }
    Ok(())
}

/// What a type of the table may be in the contract.
fn wanted(name: &str, kind: &str) -> Vec<String> {
    let (kind, optional) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
    if let Some(item) = kind.strip_prefix("list[").and_then(|kind| kind.strip_suffix(']')) {
        return wanted("", item).into_iter().map(|item| format!("repeated {item}")).collect();
    }
    let kinds: &[&str] = match kind {
        _ if name.ends_with("_seconds") => return vec!["google.protobuf.Duration".to_owned()],
        "datetime" => return vec!["google.protobuf.Timestamp".to_owned()],
        "ResourceUsageDomain" => return vec!["runmesh.event.v1.ResourceUsage".to_owned()],
        "ContainerStatusInfo" => return vec!["runmesh.event.v1.ContainerStatus".to_owned()],
        "str" if name == "stdout" || name == "stderr" => &["bytes"],
        "str" => &["string"],
        "int" => &["int32", "int64"],
        "bool" => &["bool"],
        "bytes" => &["bytes"],
        name => &[&format!("enum runmesh.event.v1.{name}")],
    };
    kinds.iter().map(|kind| if optional { format!("optional {kind}") } else { (*kind).to_owned() }).collect()
}

/// What a field is in the contract, in the words of [`wanted`]. Messages always have presence, so it is not said.
fn actual(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(one) => format!("enum {}", one.full_name()),
        scalar => format!("{scalar:?}"),
    };
    if field.cardinality() == Cardinality::Repeated {
        format!("repeated {kind}")
    } else if field.supports_presence() && field.kind().as_message().is_none() {
        format!("optional {kind}")
    } else {
        kind
    }
}

/// `execution_requested` as `ExecutionRequested`.
fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let (first, rest) = word.split_at(1);
            first.to_uppercase() + rest
        })
        .collect()
}
