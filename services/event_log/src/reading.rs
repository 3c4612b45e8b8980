//! Events that a selection means, read in pages of bounded size.

use std::{collections::BTreeMap, sync::Arc};

use async_stream::try_stream;
use futures::Stream;
use prost::Message as _;
use runmesh_events::Event;
use runmesh_store::{EventSelection, EventStore, Filter, Position, StoreError, Stored};

/// How many events one read brings, at least and at most.
const EVENTS: (usize, usize) = (16, 2_048);

/// How many bytes of events one read should bring at most, about. What comes next is taken to be like what came last.
const BYTES: usize = 8 << 20;

/// What one read brought.
#[derive(Debug)]
pub(crate) struct Read {
    /// The events that are meant, in the order of their positions.
    pub(crate) events: Vec<Stored>,
    /// Up to where all was looked at.
    pub(crate) reached: Position,
    /// How many events were looked at, and their bytes.
    pub(crate) looked_at: (usize, usize),
}

/// Reads on from a place, page by page.
pub(crate) struct Reader {
    store: Arc<dyn EventStore>,
    selection: Arc<EventSelection>,
    filter: Filter,
    after: Position,
    size: usize,
}

impl Reader {
    /// A reader of what a selection means after a place.
    pub(crate) fn new(store: Arc<dyn EventStore>, selection: Arc<EventSelection>, after: Position) -> Self {
        let filter = selection.scan().clone();
        // The first read is small: nothing is known of how large events are.
        Self { store, selection, filter, after, size: EVENTS.1 / 4 }
    }

    /// What comes next up to a place, and, where one is given, recorded before a time. `None`: nothing is there yet.
    pub(crate) async fn next(
        &mut self,
        upto: Position,
        until: Option<std::time::SystemTime>,
    ) -> Result<Option<Read>, StoreError> {
        let (own, settled) = (self.selection.until(), until);
        self.filter.until = own.into_iter().chain(settled).min();
        let mut page = self.store.scan(&self.filter, self.after, self.size).await?;
        page.truncate(page.partition_point(|stored| stored.position <= upto));
        let Some(reached) = page.last().map(|stored| stored.position) else { return Ok(None) };
        self.after = reached;
        let (events, looked_at) = select(Arc::clone(&self.selection), page).await?;
        let fitting = BYTES.saturating_mul(looked_at.0) / looked_at.1.max(1);
        self.size = fitting.clamp(EVENTS.0, EVENTS.1);
        Ok(Some(Read { events, reached, looked_at }))
    }
}

/// Those of a page that are meant; how many there were, and their bytes. Looking for texts takes a while, so it is done where
/// nobody waits for the thread.
pub(crate) async fn select(
    selection: Arc<EventSelection>,
    page: Vec<Stored>,
) -> Result<(Vec<Stored>, (usize, usize)), StoreError> {
    let work = move || {
        let looked_at = (page.len(), page.iter().map(|stored| stored.event.encoded_len()).sum());
        let meant = |stored: &Stored| selection.is_empty() || selection.matches(&stored.event);
        (page.into_iter().filter(meant).collect(), looked_at)
    };
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Backend(format!("a look at events did not end: {error}")))
}

/// All events that a selection means after a place and up to another, in the order of their positions. It can be dropped at
/// any time, and holds one read in memory.
pub(crate) fn all(
    store: Arc<dyn EventStore>,
    selection: Arc<EventSelection>,
    after: Position,
    upto: Position,
) -> impl Stream<Item = Result<Vec<Stored>, StoreError>> + Send {
    try_stream! {
        if !selection.ids().is_empty() {
            yield by_ids(&*store, &selection).await?;
            return;
        }
        let mut reader = Reader::new(store, selection, after);
        while let Some(read) = reader.next(upto, None).await? {
            yield read.events;
        }
    }
}

/// The events of a selection that names some, in the order of their positions.
pub(crate) async fn by_ids(store: &dyn EventStore, selection: &EventSelection) -> Result<Vec<Stored>, StoreError> {
    let mut found = BTreeMap::new();
    for id in selection.ids() {
        if let Some(stored) = store.get(id).await?
            && selection.matches(&stored.event)
        {
            found.insert((stored.position, stored.event.event_id.clone()), stored);
        }
    }
    Ok(found.into_values().collect())
}

/// The place of the newest event. 0: there is none.
pub(crate) async fn newest(store: &dyn EventStore) -> Result<Position, StoreError> {
    let newest = store.scan_back(&Filter::default(), Position(u64::MAX), 1).await?;
    Ok(newest.first().map_or(Position(0), |stored| stored.position))
}

/// Whether two events are the same one.
pub(crate) fn is(event: &Event, other: &Event) -> bool {
    event.event_id == other.event_id
}
