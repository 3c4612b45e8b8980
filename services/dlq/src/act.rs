//! RetryDeadLetters and DiscardDeadLetters.

use std::time::SystemTime;

use runmesh_bus::{DeadLetter, LetterState, Pending};
use runmesh_proto::dlq::LetterResult;
use runmesh_rpc::{Violation, status};
use runmesh_store::{StoreError, Versioned};

use crate::{
    deliver::Refusal,
    error::DlqError,
    service::Inner,
    tell::{self, By},
};

/// The greatest number of letters of one call.
const IDS: usize = 1_000;

impl<'a> By<'a> {
    /// Who has something done, and why: both have to be told.
    pub(crate) fn parse(actor: &'a str, reason: &'a str) -> Result<Self, Vec<Violation>> {
        let violations = status::operator(actor, reason);
        if violations.is_empty() { Ok(Self { actor, reason }) } else { Err(violations) }
    }
}

/// Checks what both calls have.
fn parse<'a>(ids: &[String], actor: &'a str, reason: &'a str) -> Result<By<'a>, DlqError> {
    let mut violations = Vec::new();
    let by = By::parse(actor, reason).unwrap_or_else(|wrong| {
        violations.extend(wrong);
        By::default()
    });
    if ids.is_empty() || ids.len() > IDS {
        violations.push(Violation::new("dead_letter_ids", format!("has {} ids; it has to have 1 to {IDS}", ids.len())));
    }
    if violations.is_empty() { Ok(by) } else { Err(DlqError::Invalid(violations)) }
}

fn done(id: &str) -> LetterResult {
    LetterResult { dead_letter_id: id.to_owned(), ok: true, ..Default::default() }
}

fn not_done(id: &str, code: &str, message: impl Into<String>) -> LetterResult {
    LetterResult { dead_letter_id: id.to_owned(), ok: false, code: code.to_owned(), message: message.into() }
}

fn not_found(id: &str) -> LetterResult {
    not_done(id, "NOT_FOUND", "there is no such dead letter")
}

/// Why a letter can't be delivered now, as a code and in words. `None`: it can.
pub(crate) fn obstacle(letter: &DeadLetter) -> Option<(&'static str, String)> {
    if let Some(first) = &letter.waits_behind {
        return Some(("WAITS", format!("it waits behind dead letter {first}")));
    }
    match letter.state {
        LetterState::Scheduled | LetterState::Parked => None,
        LetterState::Retrying => Some(("RETRYING", "it is under way already".to_owned())),
        LetterState::Resolved | LetterState::Discarded => Some(("OVER", format!("it is {}", letter.state.as_str()))),
    }
}

pub(crate) async fn retry(
    inner: &Inner,
    ids: &[String],
    actor: &str,
    reason: &str,
) -> Result<Vec<LetterResult>, DlqError> {
    let by = parse(ids, actor, reason)?;
    let mut results = Vec::with_capacity(ids.len());
    let mut letters: Vec<(usize, Versioned<DeadLetter>)> = Vec::new();
    for id in ids {
        let found = inner.letters.documents().get(id).await?;
        let again = letters.iter().any(|(_, known)| known.document.id == *id);
        results.push(match found {
            None => not_found(id),
            Some(_) if again => not_done(id, "RETRYING", "it is named more than once"),
            Some(found) => match obstacle(&found.document) {
                Some((code, words)) => not_done(id, code, words),
                None => {
                    letters.push((results.len(), found));
                    done(id)
                }
            },
        });
    }
    let (places, letters): (Vec<usize>, Vec<_>) = letters.into_iter().unzip();
    let outcomes = inner.deliver(letters, by, None, SystemTime::now()).await;
    for (place, outcome) in places.into_iter().zip(outcomes) {
        let id = results[place].dead_letter_id.clone();
        match outcome {
            Ok(()) => {}
            Err(Refusal::Changed) => results[place] = not_done(&id, "RETRYING", "it was changed at the same time"),
            Err(Refusal::Failed(why)) => results[place] = not_done(&id, "FAILED", why),
        }
    }
    Ok(results)
}

pub(crate) async fn discard(
    inner: &Inner,
    ids: &[String],
    actor: &str,
    reason: &str,
) -> Result<Vec<LetterResult>, DlqError> {
    let by = parse(ids, actor, reason)?;
    let mut results = Vec::with_capacity(ids.len());
    for id in ids {
        results.push(discard_one(inner, id, by).await?);
    }
    Ok(results)
}

async fn discard_one(inner: &Inner, id: &str, by: By<'_>) -> Result<LetterResult, StoreError> {
    let Some(found) = inner.letters.documents().get(id).await? else { return Ok(not_found(id)) };
    if found.document.state.is_over() {
        return Ok(not_done(id, "OVER", format!("it is {}", found.document.state.as_str())));
    }
    inner.tell_what_was_not(std::iter::once(&found.document)).await?;
    let now = SystemTime::now();
    let discarded = |letter: Option<&DeadLetter>| {
        let letter = letter.filter(|letter| !letter.state.is_over())?.clone();
        let letter = letter.moved(LetterState::Discarded, by.reason, now);
        // Should this process end here, another one tells of it.
        Some(DeadLetter { by: by.actor.to_owned(), pending: Some(Pending::Tell), ..letter })
    };
    let Some(letter) = inner.letters.documents().change(id, discarded).await? else {
        return Ok(not_done(id, "OVER", "it came to its end at the same time"));
    };
    tell::failure(&*inner.events, &letter).await?;
    inner.letters.has_changed();
    Ok(done(id))
}
