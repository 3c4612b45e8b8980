//! Query parameters and path variables as fields of the request message.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use runmesh_rpc::Violation;
use serde::de::IntoDeserializer as _;

/// Splits a query into names and values. A name or value that is not UTF-8 is a violation.
pub(crate) fn parse(query: &str) -> Result<Vec<(String, String)>, Violation> {
    let decode = |text: &str| -> Result<String, Violation> {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8().map(Cow::into_owned);
        decoded.map_err(|_| Violation::new("query", "has a percent-encoded part that is not UTF-8"))
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// The field that a dotted path of names (either form of each) leads to, with the message fields on the way.
pub(crate) fn resolve(message: &MessageDescriptor, path: &str) -> Option<Vec<FieldDescriptor>> {
    let mut message = message.clone();
    let mut fields: Vec<FieldDescriptor> = Vec::new();
    for name in path.split('.') {
        if let Some(parent) = fields.last() {
            match parent.kind() {
                Kind::Message(inner) if !parent.is_list() && !parent.is_map() && !is_well_known(&inner) => {
                    message = inner
                }
                _ => return None,
            }
        }
        fields.push(message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))?);
    }
    Some(fields)
}

/// Whether a message type has a form of its own in JSON, and so in a query.
pub(crate) fn is_well_known(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
}

/// Sets the field that `path` leads to, from text.
pub(crate) fn set(message: &mut DynamicMessage, path: &str, text: &str) -> Result<(), Violation> {
    let bad = |description: String| Violation::new(path, description);
    let fields =
        resolve(&message.descriptor(), path).ok_or_else(|| bad("is not a parameter of this method".to_owned()))?;
    let Some((field, parents)) = fields.split_last() else { return Err(bad("is empty".to_owned())) };
    let mut target = message;
    for parent in parents {
        // `resolve` has seen that it is a message.
        let Some(inner) = target.get_field_mut(parent).as_message_mut() else {
            return Err(bad("is not a message".to_owned()));
        };
        target = inner;
    }
    let value = value_of(field, text).map_err(bad)?;
    if field.is_list() {
        if let Some(list) = target.get_field_mut(field).as_list_mut() {
            list.push(value);
        }
        return Ok(());
    }
    if target.has_field(field) || is_set_already(target, field) {
        return Err(bad("is given more than once".to_owned()));
    }
    target.set_field(field, value);
    Ok(())
}

/// Whether another field of the same oneof is set.
fn is_set_already(message: &DynamicMessage, field: &FieldDescriptor) -> bool {
    field.containing_oneof().is_some_and(|oneof| oneof.fields().any(|other| message.has_field(&other)))
}

fn value_of(field: &FieldDescriptor, text: &str) -> Result<Value, String> {
    fn number<T: std::str::FromStr>(text: &str, kind: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("{text:?} is not {kind}"))
    }
    if field.is_map() {
        return Err("is a map, which has no place in a query".to_owned());
    }
    match field.kind() {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(format!("{text:?} is neither true nor false")),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => number(text, "a whole number of 32 bits").map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number(text, "a whole number of 64 bits").map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => number(text, "a whole number of 32 bits from 0").map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => number(text, "a whole number of 64 bits from 0").map(Value::U64),
        Kind::Float => number(text, "a number").map(Value::F32),
        Kind::Double => number(text, "a number").map(Value::F64),
        Kind::Bytes => {
            use base64::{
                Engine as _, alphabet,
                engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
            };
            let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
            let bytes = GeneralPurpose::new(alphabet, config).decode(text).map_err(|_| "is not base64".to_owned())?;
            Ok(Value::Bytes(bytes.into()))
        }
        Kind::Enum(kind) => {
            let named = kind.get_value_by_name(text);
            let number = named.or_else(|| kind.get_value(text.parse().ok()?)).map(|value| value.number());
            let known = || kind.values().map(|value| value.name().to_owned()).collect::<Vec<_>>().join(", ");
            number.map(Value::EnumNumber).ok_or_else(|| format!("{text:?} is none of {}", known()))
        }
        Kind::Message(kind) if is_well_known(&kind) => {
            let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
            DynamicMessage::deserialize(kind, text).map(Value::Message).map_err(|error| error.to_string())
        }
        Kind::Message(_) => Err("is a message; give its fields, as in `field.inner=value`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str) -> Result<DynamicMessage, Violation> {
        message("runmesh.execution.v1.ListExecutionsRequest", query)
    }

    fn message(name: &str, query: &str) -> Result<DynamicMessage, Violation> {
        let mut message = DynamicMessage::new(runmesh_proto::descriptors().get_message_by_name(name).unwrap());
        for (name, value) in parse(query)? {
            set(&mut message, &name, &value)?;
        }
        Ok(message)
    }

    #[test]
    fn each_kind_of_field_has_its_form() {
        let query = "page_size=7&pageToken=a%2Bb+c&state=EXECUTION_STATE_RUNNING&labels=a&labels=b%3Dc\
                     &createdAfter=2026-01-02T03:04:05Z";
        let message = serde_json::to_value(list(query).unwrap()).unwrap();
        let expected = serde_json::json!({
            "pageSize": 7, "pageToken": "a+b c", "state": "EXECUTION_STATE_RUNNING", "labels": ["a", "b=c"],
            "createdAfter": "2026-01-02T03:04:05Z",
        });
        assert_eq!(message, expected);
        assert_eq!(list("state=3").unwrap(), list("state=EXECUTION_STATE_RUNNING").unwrap());
        let create = "runmesh.execution.v1.CreateExecutionRequest";
        let nested = message_json(create, "spec.limits.wall_time=1.5s&spec.stdin=_w&spec.limits.outputBytes=9");
        assert_eq!(
            nested,
            serde_json::json!({"spec": {"limits": {"wallTime": "1.500s", "outputBytes": "9"}, "stdin": "/w=="}})
        );
    }

    fn message_json(name: &str, query: &str) -> serde_json::Value {
        serde_json::to_value(message(name, query).unwrap()).unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |query: &str| list(query).unwrap_err().field;
        assert_eq!(field("nope=1"), "nope");
        assert_eq!(field("page_size=x"), "page_size");
        assert_eq!(field("page_size=1&pageSize=2"), "pageSize");
        assert_eq!(field("state=NOPE"), "state");
        assert_eq!(field("created_after=yesterday"), "created_after");
        assert_eq!(field("created_after.seconds=1"), "created_after.seconds");
        assert_eq!(field("%ff=1"), "query");
        assert_eq!(field("=1"), "");
    }
}
