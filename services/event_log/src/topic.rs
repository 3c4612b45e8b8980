//! One topic and the events of its type: each event has one record, each record is an event.

mod missing;
mod records;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use runmesh_events::{EventId, EventType, TopicSpec};
use runmesh_proto::event_log::TopicLedger;
use runmesh_store::{Filter, Position};

use crate::{
    VerifyError,
    cut::Cut,
    ends::{Seconds, time_of},
    groups::Groups,
    logs::READ,
    report::Report,
    verifier::Task,
};

/// The events of one type, by id: what takes the most memory, 24 bytes each and as much again while the table grows.
type Stored = HashMap<[u8; 16], Sighting>;

/// What is known of an event.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    /// When it was recorded.
    at: Seconds,
    /// How many records it has.
    records: u8,
}

/// Compares the topic with the store.
pub(crate) async fn check(
    task: &Task<'_>,
    spec: &TopicSpec,
    cut: &Cut,
    groups: &mut Groups,
    report: &mut Report,
) -> Result<TopicLedger, VerifyError> {
    // After the cut: whatever was published by then is found in the store, unless it is not there at all.
    let mut stored = stored(task, spec.event_type, report).await?;
    let mut ledger = TopicLedger {
        topic: spec.name.clone(),
        in_store: i64::try_from(stored.len()).unwrap_or(i64::MAX),
        ..TopicLedger::default()
    };
    records::check(task, spec.event_type, cut, groups, &mut stored, &mut ledger, report).await?;
    stored.retain(|_, sighting| sighting.records == 0);
    if !stored.is_empty() {
        missing::check(task, spec, cut, stored, &mut ledger, report).await?;
    }
    Ok(ledger)
}

async fn stored(task: &Task<'_>, event_type: EventType, report: &mut Report) -> Result<Stored, VerifyError> {
    let filter = Filter { types: vec![event_type], from: task.since, ..Filter::default() };
    let (mut stored, mut after) = (Stored::new(), Position(0));
    loop {
        let page = task.store.scan(&filter, after, READ).await?;
        let Some(last) = page.last() else { return Ok(stored) };
        after = last.position;
        for found in page.iter().filter(|found| task.is_of_the_time(&found.event)) {
            if let Ok(id) = found.event.event_id.parse::<EventId>() {
                stored.insert(*id.as_bytes(), Sighting { at: time_of(&found.event).into(), records: 0 });
            }
        }
        report.events(page.len()).await;
    }
}

/// Whether a topic keeps records of this age no longer.
fn has_expired(spec: &TopicSpec, task: &Task<'_>, at: SystemTime) -> bool {
    task.age(at) + CLOCKS > spec.retention
}

/// How much the clocks of the mesh and the bus may differ.
const CLOCKS: Duration = Duration::from_secs(60);
