//! The OpenAPI 3.1 document, made of the descriptors and their comments.

mod comments;
mod schema;

use http::Method;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use runmesh_proto::api::Access;
use serde_json::{Map, Value, json};

use crate::{
    query::{is_well_known, resolve},
    routes::{Answer, BodyRule, Route, RouteTable, SseRule},
};
use comments::Comments;
use schema::Schemas;

/// How deep messages in messages become query parameters. Deeper ones are better sent in a body.
const MAX_QUERY_DEPTH: usize = 3;

/// Describes the routes.
pub(crate) fn document(routes: &RouteTable) -> Value {
    let comments = Comments::read(runmesh_proto::descriptors());
    let mut schemas = Schemas::new(&comments);
    let mut paths: Map<String, Value> = Map::new();
    let mut seen: Vec<String> = Vec::new();
    for route in routes.routes() {
        let full_name = route.rpc.full_name().to_owned();
        let again = seen.iter().filter(|name| **name == full_name).count();
        seen.push(full_name);
        let operation = operation(route, again, &comments, &mut schemas);
        let path = paths.entry(route.pattern.clone()).or_insert_with(|| json!({}));
        path[route.http_method.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas = schemas.finish();
    schemas.insert("Problem".to_owned(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Runmesh",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Runs scripts. The gRPC services over HTTP: JSON for calls, Server-Sent Events for streams, files for \
                some. Bytes are base64, 64-bit integers are strings. Requests may name fields in either case.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Problem": {
                    "description": "What went wrong (RFC 9457).",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(route: &Route, again: usize, comments: &Comments, schemas: &mut Schemas<'_>) -> Value {
    let rpc = &route.rpc;
    let comment = comments.get(&rpc.parent_file(), rpc.path());
    let mut id = rpc.name().to_owned();
    if again > 0 {
        id.push_str(&(again + 1).to_string());
    }
    let mut operation = json!({
        "operationId": id,
        "summary": comment.split_inclusive('.').next().unwrap_or_default(),
        "description": comment,
        "tags": [rpc.parent_service().name()],
        "x-grpc-method": route.rpc_path.as_str(),
        "responses": responses(route, schemas),
        "security": if route.access == Access::Public { json!([]) } else { json!([{"bearer": []}]) },
    });
    let parameters = parameters(route, comments, schemas);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    let body = match &route.body {
        BodyRule::None => None,
        BodyRule::Whole => Some(schemas.message(&rpc.input())),
        BodyRule::Field(field) => Some(schemas.field(field)),
    };
    if let Some(schema) = body {
        operation["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    operation
}

fn responses(route: &Route, schemas: &mut Schemas<'_>) -> Value {
    let problem = json!({"$ref": "#/components/responses/Problem"});
    match &route.answer {
        Answer::Json => json!({
            "200": {
                "description": "The answer.",
                "content": {"application/json": {"schema": schemas.message(&route.rpc.output())}},
            },
            "default": problem,
        }),
        Answer::File => json!({
            "200": {
                "description": "A file. When something goes wrong on the way, the transfer is cut.",
                "headers": {"Content-Disposition": {"schema": {"type": "string"}}},
                // Any content type: the answer says which.
                "content": {"*/*": {}},
            },
            "default": problem,
        }),
        Answer::Events(rule) => events(rule, &schemas.message(&route.rpc.output()), &problem),
    }
}

fn events(sse: &SseRule, output: &Value, problem: &Value) -> Value {
    let mut events: Vec<&str> = Vec::new();
    let fields: Vec<FieldDescriptor> =
        sse.event_oneof.iter().flat_map(|oneof| oneof.fields().collect::<Vec<_>>()).collect();
    events.extend(fields.iter().map(FieldDescriptor::name));
    events.extend(["error", "reconnect"]);
    json!({
        "200": {
            "description": "Events. `id` is the cursor to resume after (Last-Event-ID), `data` the message as JSON. \
                An event `error` has a problem as its data, and then the stream ends.",
            "content": {"text/event-stream": {
                "schema": {"type": "string"},
                "x-event-names": events,
                "x-event-data": output,
            }},
        },
        "204": {"description": "The stream has ended; there is nothing after the cursor."},
        "default": problem,
    })
}

fn parameters(route: &Route, comments: &Comments, schemas: &mut Schemas<'_>) -> Vec<Value> {
    let input = route.rpc.input();
    let path_fields: Vec<&str> = route.template.fields().collect();
    let mut parameters: Vec<Value> = path_fields
        .iter()
        .filter_map(|name| {
            let field = resolve(&input, name)?.pop()?;
            let description = comments.get(&field.parent_message().parent_file(), field.path());
            Some(json!({
                "name": name, "in": "path", "required": true, "description": description, "schema": schemas.field(&field),
            }))
        })
        .collect();
    let body_field = match &route.body {
        BodyRule::Whole => return parameters,
        BodyRule::Field(field) => Some(field.name().to_owned()),
        BodyRule::None => None,
    };
    let mut query = Vec::new();
    query_fields(&input, String::new(), String::new(), MAX_QUERY_DEPTH, &mut query);
    for (path, json_path, field) in query {
        if path_fields.contains(&path.as_str()) || body_field.as_deref() == path.split('.').next() {
            continue;
        }
        let description = comments.get(&field.parent_message().parent_file(), field.path());
        let schema = schemas.field(&field);
        parameters.push(json!({"name": json_path, "in": "query", "description": description, "schema": schema}));
    }
    if route.http_method == Method::GET && route.answer.cursor_field().is_some() {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
            "description": "The id of the last event received. It wins over the query.",
        }));
    }
    if route.http_method == Method::GET && route.answer.takes_token_from_query() {
        parameters.push(json!({
            "name": "access_token", "in": "query", "schema": {"type": "string"},
            "description": "The bearer token, for an EventSource or a link, which can't set headers. URLs end up in \
                histories and logs of proxies: prefer the header where you can.",
        }));
    }
    parameters
}

/// The fields that a query can set: dotted paths in both forms, and the field each leads to.
fn query_fields(
    message: &MessageDescriptor,
    prefix: String,
    json_prefix: String,
    depth: usize,
    out: &mut Vec<(String, String, FieldDescriptor)>,
) {
    for field in message.fields() {
        let path = format!("{prefix}{}", field.name());
        let json_path = format!("{json_prefix}{}", field.json_name());
        match field.kind() {
            _ if field.is_map() => {}
            Kind::Message(inner) if !is_well_known(&inner) => {
                if !field.is_list() && depth > 0 {
                    query_fields(&inner, format!("{path}."), format!("{json_path}."), depth - 1, out);
                }
            }
            _ => out.push((path, json_path, field)),
        }
    }
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string", "const": "about:blank"},
            "title": {"type": "string", "description": "The HTTP status in words."},
            "status": {"type": "integer", "description": "The HTTP status."},
            "detail": {"type": "string", "description": "What went wrong this time."},
            "code": {"type": "string", "description": "The name of the gRPC code, such as NOT_FOUND."},
            "reason": {"type": "string", "description": "The reason for programs, such as EXECUTION_NOT_FOUND."},
            "violations": {
                "type": "array",
                "description": "The fields that can't be accepted.",
                "items": {
                    "type": "object",
                    "required": ["field", "description"],
                    "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
                },
            },
            "retryAfter": {"type": "number", "description": "Seconds to wait before the same call may work."},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_with_a_route_is_there_with_its_comment_and_its_parameters() {
        let document = document(&RouteTable::read(runmesh_proto::descriptors()).unwrap());
        let list = &document["paths"]["/v1/executions"]["get"];
        assert_eq!(list["operationId"], "ListExecutions");
        assert_eq!(list["description"], "Executions, newest first.");
        let names: Vec<_> =
            list["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["pageSize", "pageToken", "state", "language", "labels", "createdAfter", "createdBefore"]);
        let watch = &document["paths"]["/v1/executions/{execution_id}:watch"]["get"];
        let stream = &watch["responses"]["200"]["content"]["text/event-stream"];
        assert_eq!(stream["x-event-names"], json!(["event", "end", "error", "reconnect"]));
        let export = &document["paths"]["/v1/deadLetters:export"]["get"];
        assert_eq!(export["responses"]["200"]["content"], json!({"*/*": {}}));
        let create = &document["paths"]["/v1/executions"]["post"]["requestBody"]["content"]["application/json"];
        assert_eq!(create["schema"]["$ref"], "#/components/schemas/runmesh.execution.v1.CreateExecutionRequest");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document(&RouteTable::read(runmesh_proto::descriptors()).unwrap());
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }
}
