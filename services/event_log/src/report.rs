//! What a verification tells while it runs: findings, so many of each kind, and how far it has come.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use runmesh_events::{Event, EventType};
use runmesh_proto::event_log::{
    Finding, FindingCount, FindingKind, FindingSeverity, VerifyProgress, VerifyResponse, verify_response::Item,
};
use tokio::sync::mpsc;

/// How often progress is told, at most, while a stage goes on.
const PROGRESS: Duration = Duration::from_secs(1);

/// Counts findings and passes them on.
pub(crate) struct Report {
    messages: mpsc::Sender<VerifyResponse>,
    limit: i64,
    counts: BTreeMap<FindingKind, Count>,
    progress: VerifyProgress,
    told_at: Instant,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    found: i64,
    sent: i64,
}

/// How much findings of a kind matter.
pub(crate) const fn severity(kind: FindingKind) -> FindingSeverity {
    match kind {
        FindingKind::Unspecified => FindingSeverity::Unspecified,
        FindingKind::Missing | FindingKind::Foreign | FindingKind::Hole | FindingKind::ExpiredUnread => {
            FindingSeverity::Loss
        }
        FindingKind::Reordered | FindingKind::NoEnd | FindingKind::SeveralEnds | FindingKind::Ahead => {
            FindingSeverity::Violation
        }
        FindingKind::Unpublished
        | FindingKind::Stalled
        | FindingKind::Waiting
        | FindingKind::Parked
        | FindingKind::Undecodable => FindingSeverity::Warning,
        FindingKind::Repeated | FindingKind::DeadLetters => FindingSeverity::Info,
    }
}

/// A finding of this kind, in words. What it is about is added by its fields.
pub(crate) fn finding(kind: FindingKind, message: impl Into<String>) -> Finding {
    Finding { severity: severity(kind) as i32, kind: kind as i32, message: message.into(), ..Finding::default() }
}

/// A finding about an event.
pub(crate) fn about(event: &Event, kind: FindingKind, message: impl Into<String>) -> Finding {
    let event_type = event.payload.as_ref().map_or(EventType::Unspecified, |payload| payload.event_type());
    Finding {
        topic: topic_name(event_type),
        aggregate_id: event.aggregate_id.clone(),
        event_id: event.event_id.clone(),
        sequence: i64::try_from(event.sequence).unwrap_or(i64::MAX),
        ..finding(kind, message)
    }
}

/// The name of a type's topic.
pub(crate) fn topic_name(event_type: EventType) -> String {
    runmesh_events::Catalog::get().name(event_type).to_owned()
}

impl Report {
    /// A report to `messages`, with at most `limit` findings of each kind.
    pub(crate) fn new(messages: mpsc::Sender<VerifyResponse>, limit: usize) -> Self {
        Self {
            messages,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            counts: BTreeMap::new(),
            progress: VerifyProgress::default(),
            told_at: Instant::now(),
        }
    }

    /// Tells that another stage begins.
    pub(crate) async fn stage(&mut self, name: &str) {
        name.clone_into(&mut self.progress.stage);
        self.tell_progress().await;
    }

    /// So many more events of the store were looked at.
    pub(crate) async fn events(&mut self, count: usize) {
        self.progress.events += i64::try_from(count).unwrap_or_default();
        self.tell_progress_in_time().await;
    }

    /// So many more records were looked at.
    pub(crate) async fn records(&mut self, count: usize) {
        self.progress.records += i64::try_from(count).unwrap_or_default();
        self.tell_progress_in_time().await;
    }

    async fn tell_progress_in_time(&mut self) {
        if self.told_at.elapsed() >= PROGRESS {
            self.tell_progress().await;
        }
    }

    async fn tell_progress(&mut self) {
        self.told_at = Instant::now();
        self.send(Item::Progress(self.progress.clone())).await;
    }

    /// Whether a further finding of this kind would be sent, so that it is worth while to look up what it is about.
    pub(crate) fn has_room(&self, kind: FindingKind) -> bool {
        self.counts.get(&kind).is_none_or(|count| count.sent < self.limit)
    }

    /// Counts a finding, and sends it unless there were enough of its kind.
    pub(crate) async fn found(&mut self, finding: Finding) {
        let count = self.counts.entry(finding.kind()).or_default();
        count.found += 1;
        if count.sent < self.limit {
            count.sent += 1;
            self.send(Item::Finding(finding)).await;
        }
    }

    async fn send(&self, item: Item) {
        // The reader lives as long as the verification, which is dropped with it.
        let _ = self.messages.send(VerifyResponse { cursor: String::new(), item: Some(item) }).await;
    }

    /// How often each kind was found, the gravest first.
    pub(crate) fn counts(&self) -> Vec<FindingCount> {
        let count = |(kind, count): (&FindingKind, &Count)| FindingCount {
            severity: severity(*kind) as i32,
            kind: *kind as i32,
            count: count.found,
            sent: count.sent,
        };
        self.counts.iter().map(count).collect()
    }

    /// Whether nothing was found that is a loss or breaks an invariant.
    pub(crate) fn is_sound(&self) -> bool {
        self.counts.keys().all(|kind| severity(*kind) < FindingSeverity::Violation)
    }
}
