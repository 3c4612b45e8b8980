//! GetEvent: an event, its cause, its effects, and others of its correlation.

use std::{collections::BTreeMap, sync::Arc};

use runmesh_events::{AggregateId, Event, EventId, json};
use runmesh_proto::{
    event::EventFilter,
    event_log::{EventDetail, LoggedEvent},
};
use runmesh_store::{EventSelection, Position, StoreError, Stored};

use crate::{
    delete,
    error::EventLogError,
    reading::{Reader, is},
    service::Inner,
    view,
};

/// How many effects, and how many others of the correlation, are told.
const TOLD: usize = 100;

/// How many events of a log, and of the store, are looked at, and how many bytes of them.
const LOOK: (usize, usize) = (20_000, 64 << 20);

/// Events by their places.
#[derive(Default)]
struct Found {
    events: BTreeMap<(Position, String), Stored>,
    truncated: bool,
}

impl Found {
    fn add(&mut self, stored: &Stored) {
        self.events.insert((stored.position, stored.event.event_id.clone()), stored.clone());
        // The first ones are kept.
        if self.events.len() > TOLD {
            self.events.pop_last();
            self.truncated = true;
        }
    }

    fn told(&self) -> Vec<LoggedEvent> {
        self.events.values().map(view::logged).collect()
    }
}

/// Looks for what is related to an event.
struct Search<'a> {
    inner: &'a Inner,
    event: &'a Event,
    effects: Found,
    correlated: Found,
}

pub(crate) async fn get(inner: &Inner, event_id: &str) -> Result<EventDetail, EventLogError> {
    let stored = find(inner, event_id).await?;
    let event = &*stored.event;
    let mut search = Search { inner, event, effects: Found::default(), correlated: Found::default() };
    search.run(stored.position).await?;
    Ok(EventDetail {
        logged_event: Some(view::logged(&stored)),
        event_json: json::of(json::EVENT, event),
        cause: by_id(inner, &event.causation_id).await?.as_ref().map(view::logged),
        effects: search.effects.told(),
        correlated: search.correlated.told(),
        effects_truncated: search.effects.truncated,
        correlated_truncated: search.correlated.truncated,
        deletion: delete::deletion(inner, event).await?,
    })
}

/// The event of this id, which has to be there.
pub(crate) async fn find(inner: &Inner, event_id: &str) -> Result<Stored, EventLogError> {
    if event_id.is_empty() {
        return Err(EventLogError::field("event_id", "is missing"));
    }
    let id: EventId = event_id.parse().map_err(|error| EventLogError::field("event_id", format!("{error}")))?;
    inner.store.get(&id).await?.ok_or_else(|| EventLogError::NotFound(event_id.to_owned()))
}

async fn by_id(inner: &Inner, event_id: &str) -> Result<Option<Stored>, StoreError> {
    match event_id.parse::<EventId>() {
        Ok(id) => inner.store.get(&id).await,
        Err(_) => Ok(None),
    }
}

impl Search<'_> {
    async fn run(&mut self, position: Position) -> Result<(), StoreError> {
        let own = AggregateId::from(self.event.aggregate_id.as_str());
        if !self.look(Some(&own), position).await? {
            self.effects.truncated = true;
            self.correlated.truncated = true;
        }
        self.look(None, position).await?;
        if self.event.correlation_id.is_empty() {
            return Ok(());
        }
        // A correlation is called by the event with which it began.
        let root = by_id(self.inner, &self.event.correlation_id).await?;
        let logs = root.map(|root| AggregateId::from(root.event.aggregate_id.as_str()));
        for log in logs.into_iter().filter(|log| *log != own).chain([own.clone()]) {
            if !self.look(Some(&log), Position(0)).await? {
                self.correlated.truncated = true;
            }
        }
        Ok(())
    }

    /// Looks at what comes after a place in one log, or in all. Returns whether that was all.
    async fn look(&mut self, log: Option<&AggregateId>, after: Position) -> Result<bool, StoreError> {
        let aggregate_id = log.map(|log| log.as_str().to_owned()).unwrap_or_default();
        let selection = EventSelection::parse(&EventFilter { aggregate_id, ..EventFilter::default() });
        let selection = Arc::new(selection.unwrap_or_default());
        let mut reader = Reader::new(Arc::clone(&self.inner.store), selection, after);
        let (mut events, mut bytes) = LOOK;
        while let Some(read) = reader.next(Position(u64::MAX), None).await? {
            read.events.iter().take(events).for_each(|stored| self.take(stored));
            if read.looked_at.0 > events || read.looked_at.1 > bytes {
                return Ok(false);
            }
            (events, bytes) = (events - read.looked_at.0, bytes - read.looked_at.1);
        }
        Ok(true)
    }

    fn take(&mut self, stored: &Stored) {
        let event = &*stored.event;
        if is(event, self.event) {
            return;
        }
        if event.causation_id == self.event.event_id {
            self.effects.add(stored);
        }
        if event.correlation_id == self.event.correlation_id && !event.correlation_id.is_empty() {
            self.correlated.add(stored);
        }
    }
}
