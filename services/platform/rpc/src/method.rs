//! What the contract says about a method that those who carry its calls have to know.

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, Value};

/// The request's field that makes a second call with the same content harmless.
const REQUEST_ID: &str = "request_id";

/// The size of what stands before a message on the wire: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A method of the contract.
#[derive(Debug)]
pub(crate) struct Method {
    /// The client sends a stream of messages.
    pub(crate) takes_stream: bool,
    /// The server sends a stream of messages.
    pub(crate) returns_stream: bool,
    /// The call waits for something to happen and is no work in the meantime.
    pub(crate) long_poll: bool,
    repeats: Repeats,
}

/// Whether a call that may have been carried out can be made again.
#[derive(Debug)]
enum Repeats {
    Never,
    /// Where this field of the request is set.
    WithKey(FieldDescriptor),
    Always,
}

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| read(runmesh_proto::descriptors()));

fn read(pool: &DescriptorPool) -> HashMap<String, Method> {
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .map(|method| {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let long_poll = option(pool, &method, "runmesh.api.v1.long_poll").and_then(|value| value.as_bool());
            let read = Method {
                takes_stream: method.is_client_streaming(),
                returns_stream: method.is_server_streaming(),
                long_poll: long_poll.unwrap_or_default(),
                repeats: repeats(pool, &method),
            };
            (path, read)
        })
        .collect()
}

/// A method can be repeated when it says so (`idempotency_level`), or is a GET over HTTP, which changes nothing; or with a
/// `request_id` (AIP-155).
fn repeats(pool: &DescriptorPool, method: &MethodDescriptor) -> Repeats {
    let declared = method.method_descriptor_proto().options.as_ref().is_some_and(|options| {
        // The names of the levels are NO_SIDE_EFFECTS and IDEMPOTENT; 0 is unknown.
        options.idempotency_level.unwrap_or_default() != 0
    });
    let http = option(pool, method, "google.api.http");
    let is_get = http.as_ref().and_then(Value::as_message).is_some_and(|rule| rule.has_field_by_name("get"));
    if declared || is_get {
        return Repeats::Always;
    }
    match method.input().get_field_by_name(REQUEST_ID) {
        Some(field) if field.kind() == Kind::String && !field.is_list() => Repeats::WithKey(field),
        _ => Repeats::Never,
    }
}

fn option(pool: &DescriptorPool, method: &MethodDescriptor, name: &str) -> Option<Value> {
    let extension = pool.get_extension_by_name(name)?;
    let options = method.options();
    options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())
}

/// The method of a call's path, `/package.Service/Method`. `None`: it is not the contract's.
pub(crate) fn of(path: &str) -> Option<&'static Method> {
    METHODS.get(path)
}

impl Method {
    /// Whether the call may last as long as its caller likes.
    pub(crate) fn is_open_ended(&self) -> bool {
        self.takes_stream || self.returns_stream || self.long_poll
    }

    /// Whether the call can be made a second time, although the first one may have been carried out. `body` is the whole
    /// body of the request.
    pub(crate) fn can_be_repeated(&self, body: &[u8]) -> bool {
        match &self.repeats {
            Repeats::Never => false,
            Repeats::Always => true,
            Repeats::WithKey(field) => has_key(field, body),
        }
    }
}

fn has_key(field: &FieldDescriptor, body: &[u8]) -> bool {
    let Some((&[0, _, _, _, _], message)) = body.split_first_chunk::<PREFIX>() else { return false };
    DynamicMessage::decode(field.parent_message().clone(), message)
        .is_ok_and(|message| message.get_field(field).as_str().is_some_and(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use runmesh_proto::execution::CreateExecutionRequest;

    use super::*;

    fn execution(method: &str) -> &'static Method {
        of(&format!("/runmesh.execution.v1.ExecutionService/{method}")).unwrap()
    }

    fn framed(message: &impl prost::Message) -> Vec<u8> {
        let mut body = vec![0; PREFIX];
        message.encode(&mut body).unwrap();
        body
    }

    #[test]
    fn reads_can_be_repeated_and_writes_with_a_request_id_alone() {
        for read in ["GetExecution", "ListExecutions", "WatchExecution", "WaitExecution", "GetLimits"] {
            assert!(execution(read).can_be_repeated(&[]), "{read}");
        }
        assert!(!execution("CancelExecution").can_be_repeated(&framed(&CreateExecutionRequest::default())));
        let create = execution("CreateExecution");
        let mut request = CreateExecutionRequest { request_id: "once".to_owned(), spec: None };
        assert!(create.can_be_repeated(&framed(&request)));
        let mut compressed = framed(&request);
        compressed[0] = 1;
        assert!(!create.can_be_repeated(&compressed), "what can't be read is not taken for harmless");
        request.request_id.clear();
        assert!(!create.can_be_repeated(&framed(&request)));
        assert!(!create.can_be_repeated(&[0, 0]));
    }

    #[test]
    fn streams_and_waiting_calls_are_open_ended() {
        assert!(execution("WatchExecution").is_open_ended());
        assert!(execution("WaitExecution").is_open_ended());
        assert!(!execution("CreateExecution").is_open_ended());
        assert!(of("/grpc.health.v1.Health/Check").is_none());
    }
}
