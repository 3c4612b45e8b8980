//! Appending.
//!
//! The whole step is one change of one bucket, from the sequence and the log that its writer saw. What the writer saw may
//! be old; then nothing matches, and it looks again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use mongodb::bson::doc;
use runmesh_events::{AggregateId, Event, EventId, NewEvent};
use tokio::time::timeout_at;

use super::{
    Inner,
    bucket::{Batch, Id, Item, LogId, Place, Tail, key},
    clock::Positions,
    failure::{Attempts, Failure},
    known::{Earlier, Entry},
};
use crate::{Appended, Expected, StoreError, record::integer};

/// What a try came to.
enum Written {
    /// The batch is there, and the log grows here now.
    Done { tail: Tail, batch: Batch },
    /// The log is not where it was thought to be.
    Elsewhere,
    /// The next bucket is there already, though the log has not grown: it may be left over from a deleted log.
    Occupied,
}

/// Which of a batch's events are in the log.
enum Held {
    None,
    All,
    Some(EventId),
}

/// One call.
struct Append<'a> {
    aggregate: &'a AggregateId,
    expected: Expected,
    events: &'a [NewEvent],
    ids: HashSet<Id>,
    /// The positions of the tries whose outcome is not known.
    tried: Vec<Positions>,
}

impl Inner {
    /// Appends events, or finds that they are there.
    pub(super) async fn append(
        &self,
        aggregate: &AggregateId,
        expected: Expected,
        events: &[NewEvent],
    ) -> Result<Appended, StoreError> {
        let mut ids = HashSet::with_capacity(events.len());
        if let Some(twice) = events.iter().find(|event| !ids.insert(*event.event_id.as_bytes())) {
            return Err(StoreError::EventIdInUse(twice.event_id));
        }
        let entry = self.known.entry(aggregate);
        let mut attempts = Attempts::within(self.timeout);
        let _turn = timeout_at(attempts.deadline(), entry.turn.lock()).await.map_err(|_| {
            StoreError::Unavailable(format!("other appends to aggregate {aggregate} wait for the database"))
        })?;
        let mut append = Append { aggregate, expected, events, ids, tried: Vec::new() };
        let result = append.run(self, &entry, &mut attempts).await;
        if result.is_err() && !append.tried.is_empty() {
            // Its events may be there, and nobody was told of them.
            self.live.uncertain();
        }
        result
    }
}

impl Append<'_> {
    async fn run(&mut self, store: &Inner, entry: &Entry, attempts: &mut Attempts) -> Result<Appended, StoreError> {
        let mut tail = entry.tail();
        // Whether the database said so in this call. Who expects an empty log is tried first, and believed if nothing is
        // in the way.
        let mut is_sure = false;
        if tail.is_none() && self.expected != Expected::Sequence(0) {
            tail = self.look(store, entry, attempts).await?;
            is_sure = true;
        }
        loop {
            let step = self.step(store, entry, attempts, tail.as_deref(), is_sure);
            let failed = match within(attempts, step).await {
                Ok(Some(appended)) => return Ok(appended),
                Ok(None) => false,
                Err(Failure::Passing(why)) => {
                    attempts.again(why).await?;
                    true
                }
                Err(failure) => return Err(failure.into()),
            };
            let place = |tail: &Option<Arc<Tail>>| tail.as_ref().map(|tail| tail.place);
            let seen = place(&tail);
            tail = self.look(store, entry, attempts).await?;
            if is_sure && !failed {
                if place(&tail) == seen {
                    // What stood in the way was removed, or a majority of the servers does not have it yet.
                    attempts.again(format!("aggregate {} can't be appended to", self.aggregate)).await?;
                } else {
                    // Somebody else was faster, so there is progress.
                    attempts.renew();
                    attempts.give_way().await;
                }
            }
            is_sure = true;
        }
    }

    /// Where the log grows.
    async fn look(
        &self,
        store: &Inner,
        entry: &Entry,
        attempts: &mut Attempts,
    ) -> Result<Option<Arc<Tail>>, StoreError> {
        loop {
            match within(attempts, store.last::<Tail>(self.aggregate, entry)).await {
                Ok(tail) => {
                    let tail = tail.map(Arc::new);
                    if let Some(tail) = &tail {
                        entry.learn_tail(Arc::clone(tail));
                    }
                    return Ok(tail);
                }
                Err(Failure::Passing(why)) => attempts.again(why).await?,
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// One try. `None`: look again.
    async fn step(
        &mut self,
        store: &Inner,
        entry: &Entry,
        attempts: &Attempts,
        tail: Option<&Tail>,
        is_sure: bool,
    ) -> Result<Option<Appended>, Failure> {
        match self.held(store, entry, tail).await? {
            Held::None => {}
            _ if !is_sure => return Ok(None),
            Held::All => return self.repeated(store, entry, tail).await,
            Held::Some(id) => return Err(StoreError::EventIdInUse(id).into()),
        }
        let head = tail.map_or(0, |tail| tail.place.seq);
        if let Expected::Sequence(expected) = self.expected
            && integer(expected) != head
        {
            if !is_sure {
                return Ok(None);
            }
            let actual = u64::try_from(head).unwrap_or_default();
            return Err(StoreError::Conflict { aggregate: self.aggregate.clone(), expected, actual }.into());
        }
        let positions = store.clock.positions(self.events.len(), tail.map_or(0, |tail| tail.last));
        let batch = Batch::new(self.aggregate, head, positions, &store.publisher, self.events)?;
        self.tried.push(positions);
        let written = self.write(store, attempts, tail, batch).await;
        if !matches!(written, Err(Failure::Passing(_))) {
            self.tried.pop();
        }
        match written {
            Ok(Written::Done { tail, batch }) => Ok(Some(finish(store, entry, tail, batch))),
            Ok(Written::Elsewhere) => Ok(None),
            Ok(Written::Occupied) => {
                if let Some(tail) = tail.filter(|_| is_sure) {
                    self.clear(store, attempts, tail.place.log, tail.place.number + 1).await?;
                }
                Ok(None)
            }
            Err(Failure::Duplicate { event_id: true }) => self.taken(store).await.map(|()| None),
            Err(failure) => Err(failure),
        }
    }

    /// Which of the events are in the log, up to its tail.
    async fn held(&self, store: &Inner, entry: &Entry, tail: Option<&Tail>) -> Result<Held, Failure> {
        let Some(tail) = tail else { return Ok(Held::None) };
        let mut held: HashSet<Id> = tail.ids().filter(|id| self.ids.contains(id)).collect();
        match store.earlier(self.aggregate, entry, tail).await? {
            Earlier::All(earlier) => held.extend(self.ids.intersection(&earlier)),
            Earlier::Unknown | Earlier::TooMany => {
                for bucket in store.find_ids(self.aggregate, tail.place, &self.ids).await? {
                    held.extend(bucket.with_ids(&self.ids).map(Item::id));
                }
            }
        }
        let known = |event: &&NewEvent| held.contains(event.event_id.as_bytes());
        Ok(match self.events.iter().find(known) {
            None => Held::None,
            Some(_) if held.len() == self.ids.len() => Held::All,
            Some(event) => Held::Some(event.event_id),
        })
    }

    /// The events as they were recorded before. `None`: they are not all there any more.
    async fn repeated(&self, store: &Inner, entry: &Entry, tail: Option<&Tail>) -> Result<Option<Appended>, Failure> {
        let Some(tail) = tail else { return Ok(None) };
        let buckets = store.find_ids(self.aggregate, tail.place, &self.ids).await?;
        let mut found = HashMap::new();
        for item in buckets.iter().flat_map(|bucket| bucket.with_ids(&self.ids)) {
            found.insert(item.id(), item.stored()?);
        }
        let in_order = self.events.iter().map(|event| found.remove(event.event_id.as_bytes()));
        let Some(stored) = in_order.collect::<Option<Vec<_>>>() else {
            entry.forget();
            return Ok(None);
        };
        // A try of this very call may have been done without an answer.
        let first = stored.first().map_or(0, |stored| integer(stored.position.0));
        let is_own = self.tried.iter().any(|positions| positions.at(0) == first);
        if is_own {
            store.live.publish(&stored);
        }
        let events: Vec<Arc<Event>> = stored.into_iter().map(|stored| stored.event).collect();
        Ok(Some(Appended { events, duplicate: !is_own }))
    }

    async fn write(
        &self,
        store: &Inner,
        attempts: &Attempts,
        tail: Option<&Tail>,
        batch: Batch,
    ) -> Result<Written, Failure> {
        let Some(tail) = tail else {
            let log = rand::random::<LogId>();
            return self.insert(store, attempts, Tail::new(1, log, &batch), batch).await;
        };
        let place = tail.place;
        let seen = doc! {
            "_id": key(self.aggregate, place.number), "log": place.log, "seq": place.seq, "full": false,
        };
        if !place.full && !tail.is_old_at(batch.positions()) {
            let grown = tail.with(&batch);
            let result = attempts.step(store.events.update_one(seen, grown.update(&batch))).await?;
            if result.matched_count == 0 {
                return Ok(Written::Elsewhere);
            }
            return self.confirm(store, grown, batch).await;
        }
        if !place.full {
            let result = attempts.step(store.events.update_one(seen, doc! { "$set": { "full": true } })).await?;
            if result.matched_count == 0 {
                return Ok(Written::Elsewhere);
            }
        }
        self.insert(store, attempts, Tail::new(place.number + 1, place.log, &batch), batch).await
    }

    async fn insert(&self, store: &Inner, attempts: &Attempts, tail: Tail, batch: Batch) -> Result<Written, Failure> {
        let document = tail.document(self.aggregate, &batch);
        match attempts.step(store.events.insert_one(document)).await {
            Ok(_) => self.confirm(store, tail, batch).await,
            Err(Failure::Duplicate { event_id: false }) => Ok(Written::Occupied),
            Err(failure) => Err(failure),
        }
    }

    /// Makes sure that the aggregate was not deleted before a bucket behind its first was changed: such a bucket is nobody's.
    async fn confirm(&self, store: &Inner, tail: Tail, batch: Batch) -> Result<Written, Failure> {
        if tail.place.number > 1 && store.log_of(self.aggregate).await? != Some(tail.place.log) {
            return Ok(Written::Elsewhere);
        }
        Ok(Written::Done { tail, batch })
    }

    /// Removes a bucket that is left over from a log before this one.
    async fn clear(&self, store: &Inner, attempts: &Attempts, log: LogId, number: i64) -> Result<(), Failure> {
        if let Some(place) = store.fetch::<Place>(self.aggregate, number).await?
            && place.log != log
            && store.log_of(self.aggregate).await? == Some(log)
        {
            let left_over = doc! { "_id": key(self.aggregate, number), "log": place.log };
            attempts.step(store.events.delete_one(left_over)).await?;
        }
        Ok(())
    }

    /// Finds out who has an id that is in use.
    ///
    /// # Errors
    /// [`StoreError::EventIdInUse`] when it is another aggregate. Otherwise what is in the way is this aggregate's own, or
    /// was left over and is removed, and there is reason to look again.
    async fn taken(&self, store: &Inner) -> Result<(), Failure> {
        let ids: Vec<EventId> = self.events.iter().map(|event| event.event_id).collect();
        let holders = stream::iter(ids).map(|id| async move { (id, store.holder(id.as_bytes()).await) }).buffered(8);
        let mut holders = std::pin::pin!(holders);
        while let Some((id, holder)) = holders.next().await {
            if holder?.is_some_and(|bucket| bucket.aggregate != self.aggregate.as_str()) {
                return Err(StoreError::EventIdInUse(id).into());
            }
        }
        Ok(())
    }
}

/// Something that takes no longer than the call may.
async fn within<T>(attempts: &Attempts, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout_at(attempts.deadline(), work)
        .await
        .unwrap_or_else(|_| Err(Failure::Passing("no answer in time".to_owned())))
}

/// Notes and tells what was appended.
fn finish(store: &Inner, entry: &Entry, tail: Tail, batch: Batch) -> Appended {
    entry.learn_tail(Arc::new(tail));
    let stored = batch.into_stored();
    store.live.publish(&stored);
    Appended { events: stored.into_iter().map(|stored| stored.event).collect(), duplicate: false }
}
