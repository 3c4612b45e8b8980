//! The routes that the descriptors declare.

use http::{Method, uri::PathAndQuery};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, OneofDescriptor, Value,
};
use runmesh_proto::api::Access;

use crate::{
    download::HTTP_BODY,
    template::{RequestPath, Template, UnsupportedTemplate},
};

/// A route that the descriptors declare and the gateway can't serve.
#[derive(Debug)]
pub(crate) struct BadRoute {
    /// The method's full name.
    pub(crate) method: String,
    /// What is wrong.
    pub(crate) problem: String,
}

/// Where the request's body goes.
#[derive(Debug)]
pub(crate) enum BodyRule {
    /// There is no body.
    None,
    /// The body is the request message.
    Whole,
    /// The body is this field of the request message.
    Field(FieldDescriptor),
}

/// How a stream becomes Server-Sent Events.
#[derive(Debug, Clone, Default)]
pub(crate) struct SseRule {
    /// The request's field that says where to resume.
    pub(crate) cursor_field: Option<FieldDescriptor>,
    /// The response's field that is the event's id.
    pub(crate) id_field: Option<FieldDescriptor>,
    /// The response's oneof whose set field names the event.
    pub(crate) event_oneof: Option<OneofDescriptor>,
    /// The field of the last message.
    pub(crate) end_field: Option<FieldDescriptor>,
}

/// What becomes of the RPC's answer.
#[derive(Debug)]
pub(crate) enum Answer {
    /// JSON.
    Json,
    /// A stream of Server-Sent Events.
    Events(SseRule),
    /// A file, in one message or in a stream of them.
    File,
}

impl Answer {
    /// Whether it may be asked for by what can't set headers, an EventSource or a link, with the token in the query.
    pub(crate) fn takes_token_from_query(&self) -> bool {
        !matches!(self, Self::Json)
    }

    /// The request's field that says where to resume.
    pub(crate) fn cursor_field(&self) -> Option<&FieldDescriptor> {
        match self {
            Self::Events(rule) => rule.cursor_field.as_ref(),
            Self::Json | Self::File => None,
        }
    }
}

/// One HTTP method and path, and the RPC behind it.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) http_method: Method,
    pub(crate) template: Template,
    /// The template as it is written.
    pub(crate) pattern: String,
    pub(crate) body: BodyRule,
    pub(crate) rpc: MethodDescriptor,
    /// `/package.Service/Method`.
    pub(crate) rpc_path: PathAndQuery,
    pub(crate) access: Access,
    pub(crate) answer: Answer,
}

impl Route {
    /// The type of the request message.
    pub(crate) fn input(&self) -> MessageDescriptor {
        self.rpc.input()
    }
}

/// What a request's method and path lead to.
pub(crate) enum Lookup<'a> {
    /// A route, and the fields that the path sets, still encoded.
    Found(&'a Route, Vec<(&'a str, &'a str)>),
    /// The path exists with these methods only.
    OtherMethods(Vec<&'a Method>),
    /// There is no such path.
    Unknown,
}

/// All routes.
#[derive(Debug)]
pub(crate) struct RouteTable {
    routes: Vec<Route>,
}

impl RouteTable {
    /// Reads the options of all methods.
    pub(crate) fn read(pool: &DescriptorPool) -> Result<Self, BadRoute> {
        let mut routes = Vec::new();
        for service in pool.services() {
            for method in service.methods() {
                let full_name = method.full_name().to_owned();
                add_routes(pool, &method, &mut routes).map_err(|problem| BadRoute { method: full_name, problem })?;
            }
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.template.literals()));
        Ok(Self { routes })
    }

    /// All routes.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Finds the route of a request.
    pub(crate) fn find<'a>(&'a self, method: &Method, path: &'a str) -> Lookup<'a> {
        let path = RequestPath::new(path);
        let mut others: Vec<&Method> = Vec::new();
        for route in &self.routes {
            let Some(fields) = route.template.matches(&path) else { continue };
            if route.http_method == *method {
                return Lookup::Found(route, fields);
            }
            if !others.contains(&&route.http_method) {
                others.push(&route.http_method);
            }
        }
        if others.is_empty() { Lookup::Unknown } else { Lookup::OtherMethods(others) }
    }
}

fn add_routes(pool: &DescriptorPool, rpc: &MethodDescriptor, routes: &mut Vec<Route>) -> Result<(), String> {
    let options = rpc.options();
    let access = extension(pool, &options, "runmesh.api.v1.access")?
        .and_then(|value| value.as_enum_number())
        .and_then(|number| Access::try_from(number).ok())
        .unwrap_or_default();
    let http = extension(pool, &options, "google.api.http")?;
    let offered = !matches!(access, Access::Internal | Access::Unspecified) && !rpc.is_client_streaming();
    let (true, Some(Value::Message(http))) = (offered, http) else { return Ok(()) };
    let more = http.get_field_by_name("additional_bindings").map(|bindings| bindings.into_owned());
    let more = more.as_ref().and_then(Value::as_list).unwrap_or_default();
    for binding in std::iter::once(&http).chain(more.iter().filter_map(Value::as_message)) {
        let answer = match rpc.is_server_streaming() {
            _ if rpc.output().full_name() == HTTP_BODY => Answer::File,
            true => Answer::Events(sse_rule(pool, rpc)?),
            false => Answer::Json,
        };
        routes.push(route(rpc, binding, access, answer)?);
    }
    Ok(())
}

fn route(rpc: &MethodDescriptor, binding: &DynamicMessage, access: Access, answer: Answer) -> Result<Route, String> {
    let verbs = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    let (http_method, pattern) = verbs
        .into_iter()
        .find(|(name, _)| binding.has_field_by_name(name))
        .map(|(name, method)| (method, text(binding, name)))
        .ok_or("the HTTP rule has no method that is supported")?;
    let template = Template::parse(&pattern)
        .map_err(|UnsupportedTemplate(template)| format!("the path template {template:?} is not supported"))?;
    for field in template.fields() {
        crate::query::resolve(&rpc.input(), field)
            .ok_or_else(|| format!("the path names an unknown field {field:?}"))?;
    }
    let body = match text(binding, "body").as_str() {
        "" => BodyRule::None,
        "*" => BodyRule::Whole,
        name => BodyRule::Field(field_of(&rpc.input(), name)?),
    };
    let rpc_path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    let rpc_path = PathAndQuery::try_from(rpc_path).map_err(|error| error.to_string())?;
    Ok(Route { http_method, template, pattern, body, rpc: rpc.clone(), rpc_path, access, answer })
}

fn sse_rule(pool: &DescriptorPool, rpc: &MethodDescriptor) -> Result<SseRule, String> {
    let Some(Value::Message(options)) = extension(pool, &rpc.options(), "runmesh.api.v1.sse")? else {
        return Ok(SseRule::default());
    };
    let optional = |message: &MessageDescriptor, option: &str| match text(&options, option).as_str() {
        "" => Ok(None),
        name => field_of(message, name).map(Some),
    };
    let event_oneof = match text(&options, "event_oneof").as_str() {
        "" => None,
        name => Some(
            rpc.output()
                .oneofs()
                .find(|oneof| oneof.name() == name)
                .ok_or_else(|| format!("the response has no oneof {name:?}"))?,
        ),
    };
    Ok(SseRule {
        cursor_field: optional(&rpc.input(), "cursor_field")?,
        id_field: optional(&rpc.output(), "id_field")?,
        event_oneof,
        end_field: optional(&rpc.output(), "end_field")?,
    })
}

/// The value of an option. `None` when it is not set.
fn extension(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Result<Option<Value>, String> {
    let option = pool.get_extension_by_name(name).ok_or_else(|| format!("there is no option {name}"))?;
    Ok(options.has_extension(&option).then(|| options.get_extension(&option).into_owned()))
}

fn field_of(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    message.get_field_by_name(name).ok_or_else(|| format!("{} has no field {name:?}", message.full_name()))
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_routes_are_all_understood() {
        let table = RouteTable::read(runmesh_proto::descriptors()).unwrap();
        let find = |method: Method, path| match table.find(&method, path) {
            Lookup::Found(route, _) => route.rpc.name().to_owned(),
            Lookup::OtherMethods(methods) => format!("{methods:?}"),
            Lookup::Unknown => "unknown".to_owned(),
        };
        assert_eq!(find(Method::GET, "/v1/executions"), "ListExecutions");
        assert_eq!(find(Method::POST, "/v1/executions"), "CreateExecution");
        assert_eq!(find(Method::POST, "/v1/executions/17:cancel"), "CancelExecution");
        assert_eq!(find(Method::GET, "/v1/executions/17:watch"), "WatchExecution");
        assert_eq!(find(Method::GET, "/v1/executions/17/result"), "GetResult");
        assert_eq!(find(Method::GET, "/v1/executions/17:cancel"), "[POST]");
        assert_eq!(find(Method::GET, "/v1/nothing"), "unknown");
    }

    #[test]
    fn the_watchs_stream_has_its_rule() {
        let table = RouteTable::read(runmesh_proto::descriptors()).unwrap();
        let watch = table.routes().iter().find(|route| route.rpc.name() == "WatchExecution").unwrap();
        let Answer::Events(sse) = &watch.answer else { panic!("{:?}", watch.answer) };
        assert_eq!(sse.cursor_field.as_ref().unwrap().name(), "cursor");
        assert_eq!(sse.id_field.as_ref().unwrap().name(), "cursor");
        assert_eq!(sse.event_oneof.as_ref().unwrap().name(), "item");
        assert_eq!(sse.end_field.as_ref().unwrap().name(), "end");
    }
    #[test]
    fn what_answers_with_a_body_of_its_own_is_a_file() {
        let table = RouteTable::read(runmesh_proto::descriptors()).unwrap();
        let files = table.routes().iter().filter(|route| matches!(route.answer, Answer::File));
        let files: Vec<&str> = files.map(|route| route.rpc.name()).collect();
        assert_eq!(files, ["ExportDeadLetters", "ExportEvents", "ExportShadowReport"]);
    }
}
