//! The log, up to the place where it ended when the replay was started.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use runmesh_store::{EventSelection, EventStore, Position, Stored};
use tokio::time::sleep;

use super::{Item, Page, Source, SourceError};

/// How many events one read brings.
const READ: usize = 512;

/// How long something that was being recorded may take until it can be read, where processes share the store, whose clocks may
/// differ.
const SETTLED: Duration = Duration::from_secs(3);

/// The log.
pub(super) struct LogSource {
    events: Arc<dyn EventStore>,
    selection: EventSelection,
    after: Position,
    end: Position,
    /// Nothing is read before this time.
    settled_at: Option<SystemTime>,
    ended: bool,
}

impl LogSource {
    pub(super) fn new(
        events: Arc<dyn EventStore>,
        selection: EventSelection,
        after: u64,
        end: u64,
        started: SystemTime,
    ) -> Self {
        let is_settled = selection.until().is_some_and(|until| until + SETTLED <= started);
        let settled_at = (events.is_shared() && !is_settled).then(|| started + SETTLED);
        Self { events, selection, after: Position(after), end: Position(end), settled_at, ended: false }
    }

    /// The events of the selection's ids, which are few.
    async fn by_id(&self) -> Result<Vec<Stored>, SourceError> {
        let mut found = Vec::new();
        for id in self.selection.ids() {
            found.extend(self.events.get(id).await?);
        }
        found.retain(|stored| stored.position > self.after);
        found.sort_by_key(|stored| stored.position);
        Ok(found)
    }
}

#[async_trait]
impl Source for LogSource {
    async fn next(&mut self) -> Result<Option<Page>, SourceError> {
        if self.ended {
            return Ok(None);
        }
        if let Some(wait) = self.settled_at.take().and_then(|at| at.duration_since(SystemTime::now()).ok()) {
            sleep(wait).await;
        }
        let by_id = !self.selection.ids().is_empty();
        let mut found = match by_id {
            true => self.by_id().await?,
            false => self.events.scan(self.selection.scan(), self.after, READ).await?,
        };
        let is_last = by_id || found.len() < READ || found.last().is_some_and(|stored| stored.position > self.end);
        found.retain(|stored| stored.position <= self.end);
        self.ended = is_last;
        let before = found.first().map(|stored| stored.position.0.saturating_sub(1));
        let upto = match found.last().filter(|_| !is_last) {
            Some(stored) => stored.position,
            None => self.end.max(self.after),
        };
        self.after = upto;
        let (scanned, mut looked_at, mut items) = (found.len() as u64, 0, Vec::new());
        for Stored { position, event } in found {
            looked_at += 1;
            if self.selection.matches(&event) {
                items.push(Item { place: position.0, event: Ok(event), scanned: std::mem::take(&mut looked_at) });
            }
        }
        Ok(Some(Page { items, scanned, before, upto: upto.0 }))
    }
}
