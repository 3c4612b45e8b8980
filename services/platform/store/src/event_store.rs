//! The event store.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use futures::{Stream, future::join_all, stream};
use runmesh_events::{AggregateId, Event, EventId, EventType, NewEvent, Payload};

use crate::{LiveEvents, RawWrite, Revision, StoreError};

/// What an append says about the aggregate's newest sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It is this; otherwise [`StoreError::Conflict`]. 0: the aggregate has no events.
    Sequence(u64),
    /// It may be anything: the events are facts whatever came before them, such as a piece of output.
    Any,
}

/// A place in the order in which a store recorded its events, over all aggregates. 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

/// An event with its place in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The place.
    pub position: Position,
    /// The event.
    pub event: Arc<Event>,
}

/// An event that is not yet marked as published.
#[derive(Debug, Clone)]
pub struct Unpublished {
    /// The event.
    pub stored: Stored,
    /// The process that appended it and is to publish it, by the name that its store was opened with. Empty where the
    /// store is not shared.
    pub publisher: String,
}

/// What an append did.
#[derive(Debug, Clone)]
pub struct Appended {
    /// The events as they are recorded, in order.
    pub events: Vec<Arc<Event>>,
    /// Whether they had been appended before, so that this call added nothing.
    pub duplicate: bool,
}

impl Appended {
    /// The sequence of the last of the events.
    pub fn last_sequence(&self) -> u64 {
        self.events.last().map_or(0, |event| event.sequence)
    }
}

/// A document that goes ahead of events: [`Documents::ahead`](crate::Documents::ahead).
#[derive(Debug, Clone)]
pub struct Ahead {
    pub(crate) collection: &'static str,
    pub(crate) write: RawWrite,
}

/// What became of a document and the events behind it.
#[derive(Debug)]
pub struct Behind {
    /// The document's revision.
    pub revision: Revision,
    /// What the append did, or why it was refused.
    pub appended: Result<Appended, StoreError>,
}

/// Which events a scan yields. The default yields all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only these types. Empty: all.
    pub types: Vec<EventType>,
    /// Only this aggregate.
    pub aggregate: Option<AggregateId>,
    /// Only events recorded at this time or later.
    pub from: Option<SystemTime>,
    /// Only events recorded before this time.
    pub until: Option<SystemTime>,
}

/// Keeps events for ever, in one totally ordered log per aggregate.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// Appends events to one aggregate, all or none, durably. An append whose ids were all appended to the aggregate
    /// before adds nothing and returns what is there, whatever it expects.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the aggregate is elsewhere; [`StoreError::EventIdInUse`] when an id belongs to
    /// another event; [`StoreError::Invalid`] when there are no events or no aggregate.
    async fn append(
        &self,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Appended, StoreError>;

    /// Writes a document that is not there yet, and then appends as [`EventStore::append`] does: in one step where the store can. A
    /// crash may leave the document without the events, never the events without the document.
    ///
    /// # Errors
    /// [`StoreError::RevisionMismatch`] when there is a document of that id. Then, and whenever it can't be written,
    /// nothing is appended.
    async fn append_behind(
        &self,
        document: Ahead,
        aggregate: &AggregateId,
        expected: Expected,
        events: Vec<NewEvent>,
    ) -> Result<Behind, StoreError>;

    /// Appends to many aggregates, to each as [`EventStore::append`] does, whatever the sequence, and with no order among them.
    /// A result for each.
    async fn append_each(&self, appends: Vec<(AggregateId, Vec<NewEvent>)>) -> Vec<Result<Appended, StoreError>> {
        let append = |(aggregate, events)| async move { self.append(&aggregate, Expected::Any, events).await };
        join_all(appends.into_iter().map(append)).await
    }

    /// At most `limit` events of one aggregate with a sequence greater than `after`, in order. Empty `types`: all.
    async fn read(
        &self,
        aggregate: &AggregateId,
        after: u64,
        limit: usize,
        types: &[EventType],
    ) -> Result<Vec<Arc<Event>>, StoreError>;

    /// The newest sequence of an aggregate. 0: it has no events.
    async fn head(&self, aggregate: &AggregateId) -> Result<u64, StoreError>;

    /// One event by its id.
    async fn get(&self, id: &EventId) -> Result<Option<Stored>, StoreError>;

    /// At most `limit` events after a position that match the filter, in the order in which they were recorded.
    async fn scan(&self, filter: &Filter, after: Position, limit: usize) -> Result<Vec<Stored>, StoreError>;

    /// A position that no event that was recorded so far is behind: what is recorded from now on is. Where the store is shared,
    /// that holds for this process, and for others as far as their clocks agree and nothing of theirs is on its way.
    async fn newest(&self) -> Result<Position, StoreError>;

    /// At most `limit` events before a position that match the filter, those that were recorded last first.
    async fn scan_back(&self, filter: &Filter, before: Position, limit: usize) -> Result<Vec<Stored>, StoreError>;

    /// At most `limit` events after a position that are not yet marked as published, in the order in which they were
    /// recorded. Fewer than `limit`: there were no more.
    async fn unpublished(&self, after: Position, limit: usize) -> Result<Vec<Unpublished>, StoreError>;

    /// Marks events as published. One that is marked already, or was deleted, is left as it is.
    async fn mark_published(&self, events: &[Stored]) -> Result<(), StoreError>;

    /// Replaces what an event says by a payload of the same type; all else about it stays. Returns the event as it is then.
    /// `None`: there is none with this id.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the payload is of another type.
    async fn replace_payload(&self, id: &EventId, payload: Payload) -> Result<Option<Stored>, StoreError>;

    /// Removes all events of an aggregate.
    async fn delete_aggregate(&self, aggregate: &AggregateId) -> Result<(), StoreError>;

    /// What is appended from now on, as it happens. Where the store is shared, what other processes append is heard of
    /// only as far as something tells it ([`LiveEvents::hint`]).
    fn live(&self) -> &LiveEvents;

    /// Whether other processes append to this store too.
    fn is_shared(&self) -> bool;
}

/// How many events one read of a whole log brings.
const READ: usize = 512;

/// The events of these types in an aggregate's log, and the sequence up to which the log was read: an append that
/// expects it finds nothing in the log that is not here.
///
/// # Errors
/// When the store fails.
pub async fn read_log(
    store: &dyn EventStore,
    aggregate: &AggregateId,
    types: &[EventType],
) -> Result<(Vec<Arc<Event>>, u64), StoreError> {
    let head = store.head(aggregate).await?;
    let mut events: Vec<Arc<Event>> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.sequence);
        let read = store.read(aggregate, after, READ, types).await?;
        let more = read.len() == READ;
        events.extend(read.into_iter().filter(|event| event.sequence <= head));
        if !more || events.last().is_none_or(|event| event.sequence >= head) {
            return Ok((events, head));
        }
    }
}

/// What is not yet marked as published, in pages of at most `limit` events. It ends with the first page that is not full: to go on
/// after what others append meanwhile would have no end under load.
pub fn unpublished_pages(
    store: &dyn EventStore,
    limit: usize,
) -> impl Stream<Item = Result<Vec<Unpublished>, StoreError>> + Send {
    stream::try_unfold(Some(Position(0)), move |after| async move {
        let Some(after) = after else { return Ok(None) };
        let page = store.unpublished(after, limit).await?;
        let after = page.last().filter(|_| page.len() == limit).map(|last| last.stored.position);
        Ok((!page.is_empty()).then_some((page, after)))
    })
}
