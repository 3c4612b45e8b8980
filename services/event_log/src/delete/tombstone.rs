//! What is left of a payload.

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _};
use runmesh_events::{Event, Payload, json};

/// The event's payload with its ids alone: the texts of its own whose names end in `_id`, by which code finds what an event
/// is about. `None`: it has no payload.
pub(super) fn tombstone(event: &Event) -> Option<Payload> {
    let alone = Event { payload: event.payload.clone(), ..Event::default() }.encode_to_vec();
    let mut message = DynamicMessage::decode(json::descriptor(json::EVENT)?, alone.as_slice()).ok()?;
    let field = message.fields().next().map(|(field, _)| field)?;
    let payload = message.get_field_mut(&field).as_message_mut()?;
    let dropped: Vec<FieldDescriptor> =
        payload.fields().map(|(field, _)| field).filter(|field| !is_id(field)).collect();
    for field in &dropped {
        payload.clear_field(field);
    }
    // What was not known here goes too.
    let known = payload.fields().map(|(field, value)| (field, value.clone())).collect::<Vec<_>>();
    let mut left = DynamicMessage::new(payload.descriptor());
    for (field, value) in known {
        left.set_field(&field, value);
    }
    message.set_field(&field, prost_reflect::Value::Message(left));
    Event::decode(message.encode_to_vec().as_slice()).ok()?.payload
}

fn is_id(field: &FieldDescriptor) -> bool {
    field.kind() == Kind::String && !field.is_list() && !field.is_map() && field.name().ends_with("_id")
}

#[cfg(test)]
mod tests {
    use runmesh_events::Catalog;
    use runmesh_proto::event::{ExecutionOutput, ExecutionRequested};

    use super::*;

    fn of(payload: impl Into<Payload>) -> Payload {
        tombstone(&Event { payload: Some(payload.into()), ..Event::default() }).unwrap()
    }

    #[test]
    fn ids_stay_and_all_else_goes() {
        let mut request = ExecutionRequested {
            execution_id: "e".into(),
            user_id: "ann".into(),
            script: "print('secret')".into(),
            stdin: b"secret".to_vec().into(),
            ..ExecutionRequested::default()
        };
        request.environment.insert("KEY".into(), "secret".into());
        let left =
            ExecutionRequested { execution_id: "e".into(), user_id: "ann".into(), ..ExecutionRequested::default() };
        assert_eq!(of(request), Payload::from(left.clone()));
        assert_eq!(of(left.clone()), Payload::from(left));
        let output = ExecutionOutput {
            execution_id: "e".into(),
            offset: 7,
            data: b"secret".to_vec().into(),
            ..ExecutionOutput::default()
        };
        let left = ExecutionOutput { execution_id: "e".into(), ..ExecutionOutput::default() };
        assert_eq!(of(output), Payload::from(left));
    }

    #[test]
    fn an_empty_payload_of_each_type_stays_of_its_type() {
        let event = json::descriptor(json::EVENT).unwrap();
        for topic in Catalog::get().topics() {
            let field = event.get_field_by_name(&topic.name).unwrap();
            let mut message = DynamicMessage::new(event.clone());
            let payload = DynamicMessage::new(field.kind().as_message().unwrap().clone());
            message.set_field(&field, prost_reflect::Value::Message(payload));
            let event = Event::decode(message.encode_to_vec().as_slice()).unwrap();
            assert_eq!(tombstone(&event).map(|payload| payload.event_type()), Some(topic.event_type));
        }
    }
}
