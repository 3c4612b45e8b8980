//! Dead letters as clients see them.

use prost_types::Timestamp;
use runmesh_bus::{DeadLetter, LetterState, RedriveOutcome, Severity, header};
use runmesh_events::{Catalog, EventType, TopicSpec, TraceParent, json, to_duration, to_timestamp};
use runmesh_proto::dlq;

/// The state as the contract has it.
pub(crate) fn state(state: LetterState) -> dlq::DeadLetterState {
    match state {
        LetterState::Scheduled => dlq::DeadLetterState::Scheduled,
        LetterState::Retrying => dlq::DeadLetterState::Retrying,
        LetterState::Parked => dlq::DeadLetterState::Parked,
        LetterState::Resolved => dlq::DeadLetterState::Resolved,
        LetterState::Discarded => dlq::DeadLetterState::Discarded,
    }
}

/// The state that the contract's one is.
pub(crate) fn parse_state(number: i32) -> Option<LetterState> {
    let known = dlq::DeadLetterState::try_from(number).ok()?;
    LetterState::ALL.into_iter().find(|letter| state(*letter) == known)
}

/// The topic of the event type of this number. `None`: it is none that is known here.
pub(crate) fn parse_topic(number: i32) -> Option<&'static TopicSpec> {
    Catalog::get().topic(EventType::try_from(number).ok()?)
}

/// What is said of another number.
pub(crate) const NO_EVENT_TYPE: &str = "is not an event type that is known here";

pub(crate) fn severity(severity: Severity) -> dlq::Severity {
    match severity {
        Severity::Transient => dlq::Severity::Transient,
        Severity::Permanent => dlq::Severity::Permanent,
        Severity::Poison => dlq::Severity::Poison,
    }
}

pub(crate) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn small(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The letter.
pub(crate) fn letter(letter: &DeadLetter) -> dlq::DeadLetter {
    dlq::DeadLetter {
        dead_letter_id: letter.id.clone(),
        group: letter.group.clone(),
        topic: letter.topic.clone(),
        event_type: letter.event_type() as i32,
        event_id: letter.event_id.clone(),
        aggregate_id: letter.aggregate_id.clone(),
        state: state(letter.state) as i32,
        severity: severity(letter.kind()) as i32,
        error: letter.error().to_owned(),
        fingerprint: letter.fingerprint.clone(),
        retries: small(letter.retries),
        tries: small(letter.attempt_count),
        first_failed_at: Some(to_timestamp(letter.first_failed_at)),
        last_failed_at: Some(to_timestamp(letter.last_failed_at)),
        next_retry_at: next_retry_at(letter),
        changed_at: Some(to_timestamp(letter.changed_at)),
        waits_behind: letter.waits_behind.clone().unwrap_or_default(),
        redrive_id: letter.redrive.as_ref().map(|mark| mark.id.clone()).unwrap_or_default(),
        edited: letter.edit.is_some(),
        cause: letter.cause.clone(),
    }
}

pub(crate) fn next_retry_at(letter: &DeadLetter) -> Option<Timestamp> {
    letter
        .retry_at
        .filter(|_| letter.state == LetterState::Scheduled && letter.waits_behind.is_none())
        .map(to_timestamp)
}

/// The letter with its record.
pub(crate) fn detail(found: &DeadLetter) -> dlq::DeadLetterDetail {
    let (raw, headers) = (found.original(), found.record_headers());
    let edited = found.edit.as_ref().map(|_| found.redelivery(0).value);
    let traceparent = headers.iter().find(|(name, _)| name == header::TRACEPARENT);
    let trace = traceparent.and_then(|(_, value)| TraceParent::parse(std::str::from_utf8(value).ok()?));
    dlq::DeadLetterDetail {
        dead_letter: Some(letter(found)),
        event_json: json::of_bytes(json::EVENT, &raw),
        key: found.record_key(),
        headers: headers
            .into_iter()
            .map(|(name, value)| match std::str::from_utf8(&value) {
                Ok(text) => dlq::Header { name, value: text.to_owned(), ..Default::default() },
                Err(_) => dlq::Header { name, raw_value: value, ..Default::default() },
            })
            .collect(),
        partition: found.partition,
        offset: found.offset,
        record_time: Some(to_timestamp(found.record_time)),
        attempts: found
            .attempts
            .iter()
            .map(|attempt| dlq::Attempt {
                at: Some(to_timestamp(attempt.at)),
                took: Some(to_duration(attempt.took)),
                errors: attempt.errors.clone(),
            })
            .collect(),
        trace_id: trace.map(|trace| format!("{:032x}", trace.trace_id())).unwrap_or_default(),
        edited_event_json: edited.map(|value| json::of_bytes(json::EVENT, &value)).unwrap_or_default(),
        edited_by: found.edit.as_ref().map(|edit| format!("{}: {}", edit.actor, edit.reason)).unwrap_or_default(),
        raw_value: raw,
    }
}

/// Whether the letter is under way in a redrive.
pub(crate) fn is_in_redrive(letter: &DeadLetter, redrive_id: &str) -> bool {
    letter.redrive.as_ref().is_some_and(|mark| mark.id == redrive_id)
}

/// Every outcome of a redrive.
pub(crate) const OUTCOMES: [RedriveOutcome; 3] =
    [RedriveOutcome::Sent, RedriveOutcome::Resolved, RedriveOutcome::Failed];
