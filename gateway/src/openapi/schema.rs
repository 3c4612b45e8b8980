//! JSON schemas of messages, in proto3's JSON mapping.

use std::collections::VecDeque;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::Comments;

enum Named {
    Message(MessageDescriptor),
    Enum(EnumDescriptor),
}

/// The schemas that have been referred to.
pub(super) struct Schemas<'a> {
    comments: &'a Comments,
    /// `Null` until it is described.
    done: Map<String, Value>,
    waiting: VecDeque<Named>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(comments: &'a Comments) -> Self {
        Self { comments, done: Map::new(), waiting: VecDeque::new() }
    }

    /// Describes everything that was referred to, and what that refers to.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(named) = self.waiting.pop_front() {
            let (name, schema) = match named {
                Named::Message(message) => (message.full_name().to_owned(), self.describe(&message)),
                Named::Enum(kind) => (kind.full_name().to_owned(), self.describe_enum(&kind)),
            };
            self.done.insert(name, schema);
        }
        self.done
    }

    /// A reference to a message, or its form where it has one of its own.
    pub(super) fn message(&mut self, message: &MessageDescriptor) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => json!({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"}),
            "google.protobuf.FieldMask" => json!({"type": "string"}),
            "google.protobuf.Struct" | "google.protobuf.Any" | "google.protobuf.Empty" => json!({"type": "object"}),
            "google.protobuf.ListValue" => json!({"type": "array"}),
            "google.protobuf.Value" => json!({}),
            // The wrappers are the value that they wrap, or null.
            name if name.starts_with("google.protobuf.") => match message.get_field_by_name("value") {
                Some(value) => self.field(&value),
                None => json!({}),
            },
            name => self.refer(name.to_owned(), Named::Message(message.clone())),
        }
    }

    /// The schema of a field's value.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                json!({"type": "object", "additionalProperties": self.field(&entry.map_entry_value_field())})
            }
            kind if field.is_list() => json!({"type": "array", "items": self.kind(&kind)}),
            kind => self.kind(&kind),
        }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "format": "int32", "minimum": 0}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "format": "int64"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64"}),
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Enum(kind) => self.refer(kind.full_name().to_owned(), Named::Enum(kind.clone())),
            Kind::Message(message) => self.message(message),
        }
    }

    fn refer(&mut self, name: String, named: Named) -> Value {
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        if !self.done.contains_key(&name) {
            self.done.insert(name, Value::Null);
            self.waiting.push_back(named);
        }
        reference
    }

    fn describe(&mut self, message: &MessageDescriptor) -> Value {
        let file = message.parent_file();
        let mut properties = Map::new();
        for field in message.fields() {
            let mut schema = self.field(&field);
            let mut description = self.comments.get(&file, field.path()).to_owned();
            if let Some(oneof) = field.containing_oneof().filter(|oneof| !oneof.is_synthetic()) {
                let note = format!("At most one of the fields of `{}` is set.", oneof.name());
                description = [description, note].join(" ").trim().to_owned();
            }
            if !description.is_empty() {
                schema["description"] = Value::String(description);
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut schema = json!({"type": "object", "properties": properties});
        let comment = self.comments.get(&file, message.path());
        if !comment.is_empty() {
            schema["description"] = Value::String(comment.to_owned());
        }
        schema
    }

    fn describe_enum(&self, kind: &EnumDescriptor) -> Value {
        let file = kind.parent_file();
        let values: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
        let mut lines = vec![self.comments.get(&file, kind.path()).to_owned()];
        lines.extend(kind.values().filter_map(|value| {
            let comment = self.comments.get(&file, value.path());
            (!comment.is_empty()).then(|| format!("- `{}`: {comment}", value.name()))
        }));
        json!({"type": "string", "enum": values, "description": lines.join("\n").trim()})
    }
}
