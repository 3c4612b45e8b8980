//! The records of a topic, each held against the store.

use std::{collections::HashMap, time::SystemTime};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_bus::{Delivery, Extent};
use runmesh_events::{AggregateId, Event, EventId, EventType};
use runmesh_proto::event_log::{Finding, FindingKind, TopicLedger};
use runmesh_store::{Filter, Position};

use super::Stored;
use crate::{
    VerifyError,
    cut::Cut,
    ends::time_of,
    groups::{Groups, is_again},
    logs::key_of,
    report::{Report, about, finding, topic_name},
    verifier::Task,
};

/// After how many records progress is told.
const TOLD: usize = 512;

/// How many lanes are opened at once: while one is read, the next ones connect.
const AHEAD: usize = 3;

/// How many logs' beginnings are kept in mind.
const REMEMBERED: usize = 65_536;

/// Reads all lanes of a topic up to the cut.
pub(super) async fn check(
    task: &Task<'_>,
    event_type: EventType,
    cut: &Cut,
    groups: &mut Groups,
    stored: &mut Stored,
    ledger: &mut TopicLedger,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let lanes: Vec<(Extent, u64)> = cut
        .lanes(event_type)
        .map(|extent| (*extent, cut.start(extent).min(groups.first_pending(extent.lane).unwrap_or(u64::MAX))))
        .filter(|(extent, start)| *start < extent.next)
        .collect();
    let mut readings =
        stream::iter(lanes).map(|(extent, start)| task.bus.read(extent.lane, start, extent.next)).buffered(AHEAD);
    let mut pass = Pass { task, stored, ledger, report, beginnings: HashMap::new() };
    while let Some(mut records) = readings.try_next().await? {
        let (mut sequences, mut read) = (HashMap::new(), 0);
        while let Some(delivery) = records.try_next().await? {
            groups.take(&delivery);
            pass.take(&delivery, &mut sequences).await?;
            read += 1;
            if read == TOLD {
                pass.report.records(std::mem::take(&mut read)).await;
            }
        }
        pass.report.records(read).await;
    }
    Ok(())
}

struct Pass<'a> {
    task: &'a Task<'a>,
    stored: &'a mut Stored,
    ledger: &'a mut TopicLedger,
    report: &'a mut Report,
    /// When the logs of aggregates begin whose records are not in the store. `None`: there is no log.
    beginnings: HashMap<[u8; 16], Option<SystemTime>>,
}

impl Pass<'_> {
    /// `sequences`: the greatest of each key in this lane.
    async fn take(&mut self, delivery: &Delivery, sequences: &mut HashMap<[u8; 16], u64>) -> Result<(), VerifyError> {
        let event = match delivery.event() {
            Ok(event) => event,
            Err(reason) => {
                if self.task.since.is_none_or(|since| delivery.timestamp >= since) {
                    self.ledger.undecodable += 1;
                    self.report.found(placed(delivery, finding(FindingKind::Undecodable, reason))).await;
                }
                return Ok(());
            }
        };
        if !self.task.is_of_the_time(&event) {
            return Ok(());
        }
        self.ledger.records += 1;
        if is_again(delivery) {
            self.ledger.delivered_again += 1;
            return Ok(());
        }
        let id = event.event_id.parse::<EventId>();
        let Some(sighting) = id.as_ref().ok().and_then(|id| self.stored.get_mut(id.as_bytes())) else {
            return self.unknown(delivery, &event, id.ok()).await;
        };
        sighting.records = sighting.records.saturating_add(1);
        match sighting.records {
            1 => {
                self.ledger.published += 1;
                self.in_order(delivery, &event, sequences).await;
            }
            records => {
                self.ledger.repeated += 1;
                if records == 2 {
                    let words = "the event was published more than once";
                    self.report.found(placed(delivery, about(&event, FindingKind::Repeated, words))).await;
                }
            }
        }
        Ok(())
    }

    async fn in_order(&mut self, delivery: &Delivery, event: &Event, sequences: &mut HashMap<[u8; 16], u64>) {
        let greatest = sequences.entry(key_of(&event.aggregate_id)).or_default();
        if event.sequence < *greatest {
            let words = format!("the record came behind that of sequence {greatest}");
            self.report.found(placed(delivery, about(event, FindingKind::Reordered, words))).await;
        }
        *greatest = event.sequence.max(*greatest);
    }

    /// The store was read after the record was published, and does not have its event.
    async fn unknown(&mut self, delivery: &Delivery, event: &Event, id: Option<EventId>) -> Result<(), VerifyError> {
        let beginning = self.beginning(event).await?;
        if is_of_deleted(event, beginning) {
            self.ledger.deleted += 1;
            return Ok(());
        }
        // A second look, also at the log, which may have been deleted in this moment.
        let is_stored = match &id {
            Some(id) => self.task.store.get(id).await?.is_some(),
            None => false,
        };
        let filter = Filter { aggregate: Some(AggregateId::from(event.aggregate_id.as_str())), ..Filter::default() };
        let first = self.task.store.scan(&filter, Position(0), 1).await?;
        if is_stored {
            self.ledger.in_store += 1;
            self.ledger.published += 1;
        } else if is_of_deleted(event, first.first().map(|stored| beginning_with(&stored.event))) {
            self.ledger.deleted += 1;
        } else {
            self.ledger.foreign += 1;
            let words = "the record is no event of the store, though the log of its aggregate is there";
            self.report.found(placed(delivery, about(event, FindingKind::Foreign, words))).await;
        }
        Ok(())
    }

    /// When the log of the event's aggregate begins. `None`: there is none.
    async fn beginning(&mut self, event: &Event) -> Result<Option<SystemTime>, VerifyError> {
        let key = key_of(&event.aggregate_id);
        if let Some(known) = self.beginnings.get(&key) {
            return Ok(*known);
        }
        let aggregate = AggregateId::from(event.aggregate_id.as_str());
        let first = self.task.store.read(&aggregate, 0, 1, &[]).await?;
        let beginning = first.first().map(|event| beginning_with(event));
        if self.beginnings.len() >= REMEMBERED {
            self.beginnings.clear();
        }
        self.beginnings.insert(key, beginning);
        Ok(beginning)
    }
}

/// When a log with this first event begins. One that has lost its beginning was always there.
fn beginning_with(first: &Event) -> SystemTime {
    if first.sequence == 1 { time_of(first) } else { SystemTime::UNIX_EPOCH }
}

/// Whether an event that is not stored is one of a log that was deleted. Another one of the same aggregate may have begun
/// since.
fn is_of_deleted(event: &Event, beginning: Option<SystemTime>) -> bool {
    beginning.is_none_or(|beginning| time_of(event) < beginning)
}

/// A finding about a record.
fn placed(delivery: &Delivery, finding: Finding) -> Finding {
    Finding {
        topic: topic_name(delivery.event_type),
        partition: Some(delivery.partition),
        offset: i64::try_from(delivery.offset).ok(),
        ..finding
    }
}
