//! Events of the store that were not on their topic at the cut: on their way, parked, expired, or lost.

use std::{collections::HashSet, pin::pin};

use futures::TryStreamExt as _;
use runmesh_bus::{DeadLetter, RELAY};
use runmesh_events::{Event, EventId, TopicSpec};
use runmesh_proto::event_log::{Finding, FindingKind, TopicLedger};
use runmesh_store::unpublished_pages;
use uuid::Uuid;

use super::{Stored, has_expired};
use crate::{
    VerifyError,
    cut::Cut,
    logs::READ,
    report::{Report, about, finding},
    verifier::Task,
};

/// Says of each event what became of it.
pub(super) async fn check(
    task: &Task<'_>,
    spec: &TopicSpec,
    cut: &Cut,
    mut missing: Stored,
    ledger: &mut TopicLedger,
    report: &mut Report,
) -> Result<(), VerifyError> {
    // First what is not marked as published, then the topic's end: an event that is marked was on the topic before.
    let unpublished = unpublished(task, &missing).await?;
    arrived_since(task, spec, cut, &mut missing, ledger).await?;
    for (id, sighting) in missing {
        let at = sighting.at.time();
        let event_id = Uuid::from_bytes(id).as_hyphenated().to_string();
        if unpublished.contains(&id) {
            ledger.pending += 1;
            let age = task.age(at);
            if age > task.patience {
                let words = format!("the event is not published yet, {} s after it was recorded", age.as_secs());
                report_event(task, report, &event_id, FindingKind::Unpublished, words).await?;
            }
            continue;
        }
        if has_expired(spec, task, at) {
            ledger.expired += 1;
            continue;
        }
        if let Some(letter) = task.letters.get(&DeadLetter::id_of(RELAY, &event_id)).await? {
            ledger.parked += 1;
            let why = letter.document.attempts.last().and_then(|attempt| attempt.errors.first()).cloned();
            let words = format!("the event could not be published: {}", why.unwrap_or_default());
            report_event(task, report, &event_id, FindingKind::Parked, words).await?;
            continue;
        }
        match event(task, &event_id).await? {
            Some(event) => {
                ledger.missing += 1;
                let words = "the event is marked as published and is not on its topic";
                report.found(about(&event, FindingKind::Missing, words)).await;
            }
            // Deleted since it was read.
            None => ledger.in_store -= 1,
        }
    }
    Ok(())
}

/// Those that are not marked as published.
async fn unpublished(task: &Task<'_>, missing: &Stored) -> Result<HashSet<[u8; 16]>, VerifyError> {
    let mut found = HashSet::new();
    let mut pages = pin!(unpublished_pages(task.store, READ));
    while let Some(page) = pages.try_next().await? {
        let ids = page.iter().filter_map(|one| one.stored.event.event_id.parse::<EventId>().ok());
        found.extend(ids.map(|id| *id.as_bytes()).filter(|id| missing.contains_key(id)));
    }
    Ok(found)
}

/// Strikes off what was published after the cut.
async fn arrived_since(
    task: &Task<'_>,
    spec: &TopicSpec,
    cut: &Cut,
    missing: &mut Stored,
    ledger: &mut TopicLedger,
) -> Result<(), VerifyError> {
    for extent in task.bus.extents(&[spec.event_type]).await? {
        let from = cut.end(extent.lane).max(extent.first);
        let mut records = task.bus.read(extent.lane, from, extent.next).await?;
        while let Some(delivery) = records.try_next().await? {
            let Ok(event) = delivery.event() else { continue };
            if let Ok(id) = event.event_id.parse::<EventId>()
                && missing.remove(id.as_bytes()).is_some()
            {
                ledger.published += 1;
            }
        }
    }
    Ok(())
}

/// Reports what is known by its id, with what the store has of it unless there are enough findings of the kind.
async fn report_event(
    task: &Task<'_>,
    report: &mut Report,
    event_id: &str,
    kind: FindingKind,
    words: String,
) -> Result<(), VerifyError> {
    let found = if report.has_room(kind) { event(task, event_id).await? } else { None };
    let finding = match found {
        Some(event) => about(&event, kind, words),
        None => Finding { event_id: event_id.to_owned(), ..finding(kind, words) },
    };
    report.found(finding).await;
    Ok(())
}

/// The event as the store has it now.
async fn event(task: &Task<'_>, event_id: &str) -> Result<Option<std::sync::Arc<Event>>, VerifyError> {
    let Ok(id) = event_id.parse::<EventId>() else { return Ok(None) };
    Ok(task.store.get(&id).await?.map(|stored| stored.event))
}
