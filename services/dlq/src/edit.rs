//! EditAndRetry: a corrected payload stands for the original, which is kept.

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use runmesh_bus::{DeadLetter, Edit, header};
use runmesh_events::{Event, EventId, json, to_timestamp};
use runmesh_proto::{
    dlq::{DeadLetter as LetterView, EditAndRetryRequest},
    event::EventType,
};
use runmesh_rpc::Violation;
use runmesh_store::Versioned;

use crate::{act, deliver::Refusal, error::DlqError, service::Inner, tell::By, view};

/// The greatest number of bytes of a payload.
const PAYLOAD: usize = 4 << 20;

pub(crate) async fn edit_and_retry(inner: &Inner, request: EditAndRetryRequest) -> Result<LetterView, DlqError> {
    let id = &request.dead_letter_id;
    let by = By::parse(&request.actor, &request.reason).map_err(DlqError::Invalid)?;
    if request.payload_json.len() > PAYLOAD {
        return Err(DlqError::field("payload_json", format!("has more than {PAYLOAD} bytes")));
    }
    let Versioned { document: letter, revision } = inner.letter(id).await?;
    if let Some((code, words)) = act::obstacle(&letter) {
        return Err(DlqError::Precondition(code, words));
    }
    let event = corrected(&letter, &request.payload_json)
        .map_err(|why| DlqError::Invalid(vec![Violation::new("payload_json", why)]))?;
    let edit = Edit {
        value: BASE64_STANDARD.encode(event),
        actor: by.actor.to_owned(),
        reason: by.reason.to_owned(),
        at: SystemTime::now(),
    };
    let edited = DeadLetter { edit: Some(edit), ..letter };
    let outcomes = inner.deliver(vec![Versioned { document: edited, revision }], by, None, SystemTime::now()).await;
    match outcomes.into_iter().next() {
        Some(Err(Refusal::Changed)) => {
            return Err(DlqError::Precondition("RETRYING", "the letter was changed at the same time".to_owned()));
        }
        // What was begun is finished after a moment.
        Some(Err(Refusal::Failed(why))) => tracing::warn!(id, why, "an edited dead letter is delivered later"),
        _ => {}
    }
    Ok(view::letter(&inner.letter(id).await?.document))
}

/// The letter's event with this payload, encoded.
///
/// # Errors
/// In words, why the payload is not one of this event.
fn corrected(letter: &DeadLetter, payload_json: &str) -> Result<Vec<u8>, String> {
    let event_type = letter.event_type();
    let descriptor = json::descriptor(json::EVENT).ok_or("there are no events in the contract")?;
    let field = descriptor.get_field_by_name(&letter.topic).ok_or_else(|| format!("{} is no topic", letter.topic))?;
    let kind = field.kind();
    let payload_type = kind.as_message().ok_or("the payload is no message")?.clone();
    let payload = json::parse(payload_type, payload_json)?;
    if let Some(Value::String(execution)) = payload.get_field_by_name("execution_id").as_deref()
        && *execution != letter.aggregate_id
    {
        return Err(format!("its execution_id is {execution:?}; that of the event is {:?}", letter.aggregate_id));
    }
    let envelope = envelope(letter, event_type);
    let mut event =
        DynamicMessage::decode(descriptor, envelope.encode_to_vec().as_slice()).map_err(|error| error.to_string())?;
    event.set_field(&field, Value::Message(payload));
    Ok(event.encode_to_vec())
}

/// The envelope of the original, or, where that can't be read, what the record's headers say.
fn envelope(letter: &DeadLetter, event_type: EventType) -> Event {
    if let Ok(event) = Event::decode(letter.original())
        && event.payload.as_ref().is_some_and(|payload| payload.event_type() == event_type)
    {
        return event;
    }
    let headers = letter.record_headers();
    let of = |name: &str| {
        let found = headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let derived = || EventId::derived("dlq", &letter.id, 0).to_string();
    let event_id = Some(of(header::CE_ID)).filter(|id| !id.is_empty()).unwrap_or_else(derived);
    Event {
        correlation_id: event_id.clone(),
        event_id,
        aggregate_id: letter.aggregate_id.clone(),
        sequence: of(header::CE_SEQUENCE).parse().unwrap_or_default(),
        occurred_at: Some(to_timestamp(letter.record_time)),
        traceparent: of(header::TRACEPARENT),
        ..Event::default()
    }
}
