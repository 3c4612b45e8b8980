//! Requests from HTTP to a message, and messages to JSON.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use prost_reflect::{
    DeserializeOptions, DynamicMessage, MessageDescriptor, ReflectMessage as _, SerializeOptions, Value,
};
use runmesh_rpc::{Violation, status};
use serde_path_to_error::Track;
use tonic::Status;

use crate::{
    problem::Problem,
    query,
    routes::{BodyRule, Route},
    template,
};

/// How messages are written.
const JSON: SerializeOptions = SerializeOptions::new().skip_default_fields(false);
/// How messages are read: what is not known is refused, with its name.
const STRICT: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(true);

/// Puts the request message together from the body, the path's fields and the query's.
pub(crate) fn request_message(
    route: &Route,
    path_fields: &[(&str, &str)],
    query: &[(String, String)],
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<DynamicMessage, Problem> {
    let mut message = body_message(route, headers, body)?;
    for (field, encoded) in path_fields {
        let bad = |description: &str| invalid(Violation::new(*field, description));
        let text = template::decode(encoded).ok_or_else(|| bad("is not UTF-8 in the path"))?;
        set_from_path(&mut message, field, &text).map_err(invalid)?;
    }
    for (name, value) in query {
        let taken = match &route.body {
            BodyRule::Whole => true,
            BodyRule::Field(field) => {
                let first = name.split('.').next().unwrap_or_default();
                first == field.name() || first == field.json_name()
            }
            BodyRule::None => false,
        };
        if taken {
            return Err(invalid(Violation::new(
                name,
                "is not a query parameter of this method; it belongs in the body",
            )));
        }
        query::set(&mut message, name, value).map_err(invalid)?;
    }
    Ok(message)
}

fn invalid(violation: Violation) -> Problem {
    Problem::from_status(&status::invalid_arguments(vec![violation]))
}

/// The path says which resource is meant; a body that names it too must agree.
fn set_from_path(message: &mut DynamicMessage, field: &str, text: &str) -> Result<(), Violation> {
    let mut own = DynamicMessage::new(message.descriptor());
    query::set(&mut own, field, text)?;
    let fields = query::resolve(&message.descriptor(), field).unwrap_or_default();
    match (leaf(message, &fields), leaf(&own, &fields)) {
        (Some(given), Some(meant)) if given != meant => {
            Err(Violation::new(field, "is another one in the path than in the body"))
        }
        (Some(_), _) => Ok(()),
        (None, _) => query::set(message, field, text),
    }
}

fn leaf(message: &DynamicMessage, fields: &[prost_reflect::FieldDescriptor]) -> Option<Value> {
    let (field, rest) = fields.split_first()?;
    if !message.has_field(field) {
        return None;
    }
    let value = message.get_field(field);
    if rest.is_empty() { Some(value.into_owned()) } else { leaf(value.as_message()?, rest) }
}

fn body_message(route: &Route, headers: &HeaderMap, body: &Bytes) -> Result<DynamicMessage, Problem> {
    let input = route.input();
    if body.is_empty() {
        return Ok(DynamicMessage::new(input));
    }
    let target = match &route.body {
        BodyRule::None => return Err(invalid(Violation::new("body", "must be empty for this method"))),
        BodyRule::Whole => input,
        BodyRule::Field(field) => {
            require_json(headers)?;
            // The field's own JSON form, whatever its kind, is the one that it has in the message around it.
            let name = serde_json::to_string(field.json_name()).unwrap_or_default();
            let wrapped = [b"{", name.as_bytes(), b":", body.as_ref(), b"}"].concat();
            return from_json(input, &wrapped).map_err(|status| Problem::from_status(&status));
        }
    };
    require_json(headers)?;
    from_json(target, body).map_err(|status| Problem::from_status(&status))
}

/// A page of another site can send other content types without asking, so only JSON is taken.
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::http(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "UNSUPPORTED_MEDIA_TYPE",
        "send the body as content-type: application/json",
    ))
}

/// Reads canonical JSON.
fn from_json(kind: MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Status> {
    let mut track = Track::new();
    let mut reader = serde_json::Deserializer::from_slice(json);
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let message = DynamicMessage::deserialize_with_options(kind, tracked, &STRICT).and_then(|message| {
        reader.end()?;
        Ok(message)
    });
    message.map_err(|error| {
        let path = track.path();
        let parent = if path.iter().next().is_some() { path.to_string() } else { String::new() };
        if error.is_syntax() || error.is_eof() {
            return status::invalid_argument("body", format!("is not JSON: {error}"));
        }
        let text = error.to_string();
        // The error about an unknown field is found where its parent is read, so the name is in the text alone.
        let unknown = text.strip_prefix("unrecognized field name '").and_then(|rest| rest.rsplit_once('\''));
        match unknown {
            Some((name, _)) if parent.is_empty() => status::invalid_argument(name, "is not a field of the request"),
            Some((name, _)) => status::invalid_argument(format!("{parent}.{name}"), "is not a field of the request"),
            None if parent.is_empty() => status::invalid_argument("body", text),
            None => status::invalid_argument(parent, text),
        }
    })
}

/// Writes a message as JSON on one line.
pub(crate) fn write_json(message: &DynamicMessage, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    message.serialize_with_options(&mut serde_json::Serializer::new(out), &JSON)
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn field_of(json: &str) -> String {
        let kind = runmesh_proto::descriptors().get_message_by_name("runmesh.execution.v1.CreateExecutionRequest");
        let status = from_json(kind.unwrap(), json.as_bytes()).unwrap_err();
        status.get_details_bad_request().unwrap().field_violations[0].field.clone()
    }

    #[test]
    fn an_error_in_the_json_names_the_field_by_its_whole_path() {
        assert_eq!(field_of(r#"{"nope": 1}"#), "nope");
        assert_eq!(field_of(r#"{"spec": {"nope": 1}}"#), "spec.nope");
        assert_eq!(field_of(r#"{"spec": {"files": [{}, {"nope": 1}]}}"#), "spec.files[1].nope");
        assert_eq!(field_of(r#"{"spec": {"language": 1}}"#), "spec.language");
        assert_eq!(field_of(r#"{"spec": {"limits": {"wallTime": "soon"}}}"#), "spec.limits.wallTime");
        assert_eq!(field_of(r#"{"spec": {"stdin": "%"}}"#), "spec.stdin");
        assert_eq!(field_of(r#"{"spec""#), "body");
        assert_eq!(field_of(r#"{} {}"#), "body");
        assert_eq!(field_of("[]"), "body");
    }
}
