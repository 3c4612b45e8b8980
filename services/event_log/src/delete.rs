//! DeleteEvent: what an event says goes into an archive, and only its ids stay in the log.
//!
//! First the archive, then the log, then the event that tells of it: after a crash in between, the call can be repeated, and
//! nothing is lost before it is archived.

mod archive;
mod tombstone;

use std::time::SystemTime;

use runmesh_events::{
    AggregateId, Event, EventId, EventType, NewEvent, TraceParent, json,
    lifecycle::{RESULT, SAGA_END, TERMINAL},
    to_timestamp,
};
use runmesh_proto::{
    event::OperatorActionRecorded,
    event_log::{DeleteEventRequest, DeleteEventResponse, Deletion},
};
use runmesh_rpc::status;
use runmesh_store::{Expected, StoreError, Stored, read_log};

pub(crate) use self::archive::ArchivedEvent;
use self::tombstone::tombstone;
use crate::{error::EventLogError, related, service::Inner, view};

/// Who records the event that tells of it.
const PRODUCER: &str = "event-log";

/// The log of what operators did.
const ACTIONS: &str = "operator-actions";

const OPERATION: &str = "DeleteEvent";

/// What tells what operators did can't be deleted by one.
const KEPT: [EventType; 2] = [EventType::OperatorActionRecorded, EventType::DlqOperationRecorded];

pub(crate) async fn delete(
    inner: &Inner,
    request: DeleteEventRequest,
    trace: &TraceParent,
) -> Result<DeleteEventResponse, EventLogError> {
    let violations = status::operator(&request.actor, &request.reason);
    if !violations.is_empty() {
        return Err(EventLogError::Invalid(violations));
    }
    let stored = related::find(inner, &request.event_id).await?;
    check(inner, &stored).await?;
    let archived = archive(inner, &stored, &request).await?;
    let left = bury(inner, &stored).await?;
    tell(inner, &archived, &request, trace).await?;
    Ok(DeleteEventResponse { event: Some(view::logged(&left)), deletion: Some(archived.deletion()) })
}

/// Who deleted what the event said, if somebody did.
pub(crate) async fn deletion(inner: &Inner, event: &Event) -> Result<Option<Deletion>, StoreError> {
    // It is archived first, so that alone does not mean that it is gone.
    let is_buried = event.payload.as_ref().is_some_and(|payload| tombstone(event).as_ref() == Some(payload));
    if !is_buried {
        return Ok(None);
    }
    let archived = inner.archive.get(&event.event_id).await?;
    Ok(archived.map(|archived| archived.document.deletion()))
}

/// Whether it may be deleted.
async fn check(inner: &Inner, stored: &Stored) -> Result<(), EventLogError> {
    let event_type = stored.event.payload.as_ref().map(|payload| payload.event_type());
    if event_type.is_some_and(|event_type| KEPT.contains(&event_type)) {
        let words = format!("event {} tells what an operator did", stored.event.event_id);
        return Err(EventLogError::Precondition("EVENT_IS_KEPT", words));
    }
    let types = [&[EventType::ExecutionRequested], &TERMINAL[..], &RESULT, &SAGA_END].concat();
    let log = AggregateId::from(stored.event.aggregate_id.as_str());
    let (events, _) = read_log(&*inner.store, &log, &types).await?;
    let has = |types: &[EventType]| {
        events.iter().filter_map(|event| event.payload.as_ref()).any(|found| types.contains(&found.event_type()))
    };
    // As WatchExecution has it: the log is closed by the verdict, the result and the end of the saga.
    if has(&[EventType::ExecutionRequested]) && !(has(&TERMINAL) && has(&RESULT) && has(&SAGA_END)) {
        let words = format!("execution {log} is not over, and its log is read to carry it on");
        return Err(EventLogError::Precondition("EXECUTION_NOT_ENDED", words));
    }
    Ok(())
}

/// Keeps the event as it was. One that was archived before is left as it is.
async fn archive(inner: &Inner, stored: &Stored, request: &DeleteEventRequest) -> Result<ArchivedEvent, EventLogError> {
    loop {
        if let Some(archived) = inner.archive.get(&stored.event.event_id).await? {
            return Ok(archived.document);
        }
        let archived = ArchivedEvent::new(stored, &request.actor, &request.reason, SystemTime::now());
        match inner.archive.insert(&archived).await {
            Ok(_) => return Ok(archived),
            // Somebody else was faster.
            Err(StoreError::RevisionMismatch { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Replaces what the event says. Returns what is left.
async fn bury(inner: &Inner, stored: &Stored) -> Result<Stored, EventLogError> {
    let gone = || EventLogError::NotFound(stored.event.event_id.clone());
    let payload = tombstone(&stored.event).ok_or_else(|| {
        EventLogError::Store(StoreError::Corrupt(format!("event {} has no payload", stored.event.event_id)))
    })?;
    if stored.event.payload.as_ref() == Some(&payload) {
        return Ok(stored.clone());
    }
    let id: EventId = stored.event.event_id.parse().map_err(|_| gone())?;
    inner.store.replace_payload(&id, payload).await?.ok_or_else(gone)
}

/// Tells of it, once.
async fn tell(
    inner: &Inner,
    archived: &ArchivedEvent,
    request: &DeleteEventRequest,
    trace: &TraceParent,
) -> Result<(), StoreError> {
    let Deletion { actor, reason, .. } = archived.deletion();
    let first = DeleteEventRequest { actor: actor.clone(), reason: reason.clone(), ..request.clone() };
    let recorded = OperatorActionRecorded {
        operation: OPERATION.to_owned(),
        actor,
        reason,
        target: request.event_id.clone(),
        request_json: json::of("runmesh.event_log.v1.DeleteEventRequest", &first),
    };
    let event = NewEvent::root(PRODUCER, "", trace, recorded).once(OPERATION, &request.event_id);
    let event = NewEvent { correlation_id: event.event_id.to_string(), ..event };
    inner.store.append(&AggregateId::from(ACTIONS), Expected::Any, vec![event]).await.map(drop)
}

impl ArchivedEvent {
    fn deletion(&self) -> Deletion {
        Deletion {
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            deleted_at: Some(to_timestamp(self.deleted_at)),
        }
    }
}
