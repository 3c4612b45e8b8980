//! The documents of the collection `events`.
//!
//! A document is a bucket: it holds consecutive events of one aggregate. One append is one change of one bucket, so it is
//! all or nothing. A bucket that is full never changes again but for the marks of what is published, and the next one is
//! made only after it is full: there is one place where a log grows.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use mongodb::bson::{Binary, Bson, Document, Uuid, doc, spec::BinarySubtype};
use prost::Message as _;
use runmesh_events::{AggregateId, Event, EventType, NewEvent};
use serde::Deserialize;

use super::clock::{self, Positions};
use crate::{Position, StoreError, Stored, record};

/// How many events a bucket has before it is full. Most executions have fewer. The server writes the whole bucket with each
/// append, so it should not be much larger.
const EVENTS: usize = 64;

/// How many bytes a bucket has before it is full.
const BYTES: i64 = 64 << 10;

/// How many bytes one append may have: a document has at most 16 MiB, and a bucket may have [`BYTES`] before.
const BATCH_BYTES: i64 = 12 << 20;

/// What an event takes beside its envelope, about.
const OVERHEAD: usize = 128;

/// How long after a bucket's first event others may be added to it. It bounds how far back a scan has to look for buckets
/// that hold what comes after a position.
const SPAN: i64 = clock::length(Duration::from_secs(60));

/// How much earlier than an event the first one of its bucket may be: the span, and what a batch takes.
pub(super) const LOOK_BACK: i64 = SPAN + clock::length(Duration::from_secs(15));

/// The id of an event.
pub(super) type Id = [u8; 16];

/// The name of one life of an aggregate: one that was deleted and made again has another.
pub(super) type LogId = i64;

/// The id of a bucket's document.
pub(super) fn key(aggregate: &AggregateId, number: i64) -> String {
    format!("{aggregate}/{number}")
}

/// Event types have numbers from 1 to 60, so a set of them is a 64-bit mask.
pub(super) fn mask(types: &[EventType]) -> u64 {
    types.iter().fold(0, |mask, event_type| mask | bit(*event_type as i32))
}

fn bit(event_type: i32) -> u64 {
    u32::try_from(event_type).ok().and_then(|number| 1_u64.checked_shl(number)).unwrap_or(u64::MAX)
}

/// The fields of a bucket that say where it is in its log, and nothing of its events.
pub(super) fn place_fields() -> Document {
    doc! { "n": 1, "log": 1, "from": 1, "seq": 1, "full": 1 }
}

/// A bucket's place in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Place {
    /// The number of the bucket, from 1.
    #[serde(rename = "n")]
    pub(super) number: i64,
    pub(super) log: LogId,
    /// The sequence of the first event.
    pub(super) from: i64,
    /// The sequence of the last event.
    pub(super) seq: i64,
    pub(super) full: bool,
}

/// The fields of a bucket that an append has to know.
pub(super) fn tail_fields() -> Document {
    doc! { "n": 1, "log": 1, "from": 1, "seq": 1, "full": 1, "first": 1, "last": 1, "size": 1, "events.i": 1 }
}

/// The bucket at which a log grows.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tail {
    #[serde(flatten)]
    pub(super) place: Place,
    /// The position of the first event.
    first: i64,
    /// The position of the last event.
    pub(super) last: i64,
    size: i64,
    events: Vec<IdOnly>,
}

/// An event of which only the id was read.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct IdOnly {
    #[serde(rename = "i")]
    id: Uuid,
}

impl Place {
    /// Whether it has the event with this sequence.
    pub(super) fn holds(&self, sequence: u64) -> bool {
        i64::try_from(sequence).is_ok_and(|sequence| (self.from..=self.seq).contains(&sequence))
    }
}

/// The fields of [`Ids`].
pub(super) fn ids_fields() -> Document {
    let mut fields = place_fields();
    fields.insert("events.i", 1);
    fields
}

/// The ids of a bucket's events.
#[derive(Debug, Deserialize)]
pub(super) struct Ids {
    #[serde(flatten)]
    pub(super) place: Place,
    events: Vec<IdOnly>,
}

impl Ids {
    /// The ids, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Id> + '_ {
        self.events.iter().map(|event| event.id.bytes())
    }
}

impl Tail {
    /// The ids of its events, in order.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.events.iter().map(|event| event.id.bytes())
    }

    /// How many events it has.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether a batch with these positions can't be added to it any more because of its age.
    pub(super) fn is_old_at(&self, positions: Positions) -> bool {
        positions.at(0).saturating_sub(self.first) > SPAN
    }

    /// The same with a batch added.
    pub(super) fn with(&self, batch: &Batch) -> Self {
        let mut tail = self.clone();
        tail.place.seq = batch.last_sequence();
        tail.last = batch.last_position();
        tail.size += batch.size;
        tail.events.extend(batch.ids().map(|id| IdOnly { id: Uuid::from_bytes(id) }));
        tail.place.full = is_full(tail.events.len(), tail.size);
        tail
    }

    /// The bucket that a batch begins.
    pub(super) fn new(number: i64, log: LogId, batch: &Batch) -> Self {
        let events: Vec<IdOnly> = batch.ids().map(|id| IdOnly { id: Uuid::from_bytes(id) }).collect();
        let full = is_full(events.len(), batch.size);
        Self {
            place: Place { number, log, from: batch.first_sequence, seq: batch.last_sequence(), full },
            first: batch.positions.at(0),
            last: batch.last_position(),
            size: batch.size,
            events,
        }
    }

    /// The document of the bucket that a batch begins.
    pub(super) fn document(&self, aggregate: &AggregateId, batch: &Batch) -> Document {
        doc! {
            "_id": key(aggregate, self.place.number),
            "a": aggregate.as_str(),
            "n": self.place.number,
            "log": self.place.log,
            "first": self.first,
            "last": self.last,
            "from": self.place.from,
            "seq": self.place.seq,
            "size": self.size,
            "full": self.place.full,
            "pending": batch.pending(),
            "events": batch.items(),
        }
    }

    /// What adds a batch to the bucket that is at `self`, to be so with it.
    pub(super) fn update(&self, batch: &Batch) -> Document {
        doc! {
            "$push": { "events": { "$each": batch.items() }, "pending": { "$each": batch.pending() } },
            "$set": { "seq": self.place.seq, "last": self.last, "size": self.size, "full": self.place.full },
        }
    }
}

fn is_full(events: usize, size: i64) -> bool {
    events >= EVENTS || size >= BYTES
}

/// Events that are appended together, with their places.
#[derive(Debug)]
pub(super) struct Batch {
    first_sequence: i64,
    positions: Positions,
    publisher: Arc<str>,
    events: Vec<(Id, Arc<Event>, Vec<u8>)>,
    size: i64,
}

impl Batch {
    /// The events as they are recorded behind `head`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when they are too large for one append.
    pub(super) fn new(
        aggregate: &AggregateId,
        head: i64,
        positions: Positions,
        publisher: &Arc<str>,
        events: &[NewEvent],
    ) -> Result<Self, StoreError> {
        let first_sequence = head + 1;
        let sequence = u64::try_from(first_sequence).unwrap_or_default();
        let mut size = 0_i64;
        let recorded = events
            .iter()
            .enumerate()
            .map(|(index, new)| {
                let event = record::record(new, aggregate, sequence + index as u64, positions.time(index));
                let body = event.encode_to_vec();
                size += (body.len() + OVERHEAD + publisher.len()) as i64;
                (*new.event_id.as_bytes(), Arc::new(event), body)
            })
            .collect();
        if size > BATCH_BYTES {
            return Err(StoreError::Invalid(format!(
                "the events of one append to aggregate {aggregate} have {size} bytes; at most {BATCH_BYTES} can be stored"
            )));
        }
        Ok(Self { first_sequence, positions, publisher: Arc::clone(publisher), events: recorded, size })
    }

    pub(super) fn positions(&self) -> Positions {
        self.positions
    }

    fn last_sequence(&self) -> i64 {
        self.first_sequence + self.events.len() as i64 - 1
    }

    fn last_position(&self) -> i64 {
        self.positions.at(self.events.len().saturating_sub(1))
    }

    fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.events.iter().map(|(id, ..)| *id)
    }

    fn pending(&self) -> Vec<i64> {
        (0..self.events.len()).map(|index| self.positions.at(index)).collect()
    }

    fn items(&self) -> Vec<Bson> {
        let item = |(index, (id, event, body)): (usize, &(Id, Arc<Event>, Vec<u8>))| {
            Bson::Document(doc! {
                "i": id_value(id),
                "p": self.positions.at(index),
                "t": event.payload.as_ref().map_or(0, |payload| payload.event_type() as i32),
                "u": &*self.publisher,
                "b": Binary { subtype: BinarySubtype::Generic, bytes: body.clone() },
            })
        };
        self.events.iter().enumerate().map(item).collect()
    }

    /// The events with their positions.
    pub(super) fn into_stored(self) -> Vec<Stored> {
        let positions = self.positions;
        let stored = |(index, (_, event, _))| Stored { position: position(positions.at(index)), event };
        self.events.into_iter().enumerate().map(stored).collect()
    }
}

/// The id of an event as the database keeps it.
pub(super) fn id_value(id: &Id) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: id.to_vec() })
}

/// A position as callers see it.
pub(super) fn position(number: i64) -> Position {
    Position(u64::try_from(number).unwrap_or_default())
}

/// A bucket with its events.
#[derive(Debug, Deserialize)]
pub(super) struct Bucket {
    #[serde(flatten)]
    pub(super) place: Place,
    #[serde(rename = "a")]
    pub(super) aggregate: String,
    /// The position of the first event.
    pub(super) first: i64,
    /// The positions of the events that are not published yet.
    pub(super) pending: Vec<i64>,
    pub(super) events: Vec<Item>,
}

impl Bucket {
    /// The types of its events.
    pub(super) fn types(&self) -> u64 {
        self.events.iter().fold(0, |mask, item| mask | bit(item.event_type))
    }

    /// Its events after a sequence, in order.
    pub(super) fn after(&self, sequence: u64) -> &[Item] {
        let from = u64::try_from(self.place.from).unwrap_or_default();
        let skip = usize::try_from((sequence + 1).saturating_sub(from)).unwrap_or(usize::MAX);
        self.events.get(skip..).unwrap_or_default()
    }

    /// Those of its events that have one of these ids.
    pub(super) fn with_ids(&self, ids: &HashSet<Id>) -> impl Iterator<Item = &Item> {
        self.events.iter().filter(|item| ids.contains(&item.id.bytes()))
    }
}

/// An event in a bucket.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Item {
    #[serde(rename = "i")]
    id: Uuid,
    #[serde(rename = "p")]
    pub(super) position: i64,
    #[serde(rename = "t")]
    pub(super) event_type: i32,
    #[serde(rename = "u")]
    pub(super) publisher: String,
    #[serde(rename = "b")]
    body: Bytes,
}

impl Item {
    /// Its id.
    pub(super) fn id(&self) -> Id {
        self.id.bytes()
    }

    /// Whether its type is one of these. No types: all.
    pub(super) fn is_of(&self, types: u64) -> bool {
        types == 0 || types & bit(self.event_type) != 0
    }

    /// The event.
    pub(super) fn event(&self) -> Result<Arc<Event>, StoreError> {
        record::decode(&self.body)
    }

    /// The event with its position.
    pub(super) fn stored(&self) -> Result<Stored, StoreError> {
        Ok(Stored { position: position(self.position), event: self.event()? })
    }
}

#[cfg(test)]
mod tests {
    use runmesh_events::{Payload, TraceParent};
    use runmesh_proto::event::PodCreated;

    use super::*;
    use crate::mongodb::clock::Clock;

    fn batch(count: usize, bytes: usize, clock: &Clock, head: i64) -> Result<Batch, StoreError> {
        let payload = Payload::from(PodCreated { pod_name: "x".repeat(bytes), ..Default::default() });
        let event = || NewEvent::root("test", "", &TraceParent::new_root(), payload.clone());
        let events: Vec<NewEvent> = (0..count).map(|_| event()).collect();
        Batch::new(&AggregateId::from("a"), head, clock.positions(count, 0), &Arc::from("p"), &events)
    }

    #[test]
    fn a_bucket_is_full_by_events_or_by_bytes() {
        let clock = Clock::new();
        let one = Tail::new(1, 7, &batch(EVENTS - 1, 0, &clock, 0).unwrap());
        assert!(!one.place.full);
        let full = one.with(&batch(1, 0, &clock, one.place.seq).unwrap());
        assert!(full.place.full && full.place.seq == EVENTS as i64 && full.len() == EVENTS);
        assert!(Tail::new(1, 7, &batch(1, BYTES as usize, &clock, 0).unwrap()).place.full);
    }

    #[test]
    fn a_batch_that_fits_no_document_is_refused_with_the_limit() {
        let refused = batch(1, BATCH_BYTES as usize, &Clock::new(), 0);
        assert!(matches!(&refused, Err(StoreError::Invalid(text)) if text.contains("12582912")), "{refused:?}");
    }

    #[test]
    fn a_bucket_is_read_back_as_it_was_written() {
        let clock = Clock::new();
        let first = batch(2, 10, &clock, 4).unwrap();
        let tail = Tail::new(3, 7, &first);
        let bytes = mongodb::bson::serialize_to_vec(&tail.document(&AggregateId::from("a"), &first)).unwrap();
        let bucket: Bucket = mongodb::bson::deserialize_from_slice(&bytes).unwrap();
        assert_eq!((bucket.place, bucket.aggregate.as_str(), bucket.pending.len()), (tail.place, "a", 2));
        assert_eq!(bucket.types(), mask(&[EventType::PodCreated]));
        assert_eq!((bucket.after(4).len(), bucket.after(5).len(), bucket.after(6).len()), (2, 1, 0));
        assert_eq!(bucket.after(0).len(), 2, "a sequence before the bucket");
        let stored: Vec<Stored> = bucket.events.iter().map(|item| item.stored().unwrap()).collect();
        for (read, given) in stored.iter().zip(first.into_stored()) {
            assert_eq!((read.position, &read.event), (given.position, &given.event));
        }
        let read: Tail = mongodb::bson::deserialize_from_slice(&bytes).unwrap();
        assert_eq!(read.ids().collect::<Vec<_>>(), bucket.events.iter().map(Item::id).collect::<Vec<_>>());
    }
}
