//! The relay: publishes every appended event, at once, in the order in which they were appended, and after a crash what
//! was left behind.
//!
//! Where one process has the store to itself, it publishes what the store says is unpublished ([`Relay::run`]). Where
//! the store is shared, each process publishes what it appends ([`Relay::run_own`]) as long as it holds a lease that
//! says so, and what a process left behind whose lease ran out is published by the one that holds the relay's lease
//! ([`Relay::run_orphans`]): of each event there is one publisher at a time.

mod orphans;
mod own;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use prost::Message as _;
use runmesh_events::{Catalog, EventType, GroupName, from_timestamp};
use runmesh_proto::event::RetryPreset;
use runmesh_store::{DocumentStore, Documents, EventStore, Position, StoreError, Stored};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Attempt, Bus, BusError, DeadLetter, Delivery, Lane, Record, RetryPolicy};

/// The name under which the relay's dead letters are kept.
pub const RELAY: GroupName = GroupName::new("relay");

/// How many events are published together.
const BATCH: usize = 128;

/// The first and the greatest wait before a publish is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How long a batch that is on its way at the shutdown may take. What is not marked by then is published again.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a process of a shared store is believed to be alive without a sign of life.
const LEASE: Duration = Duration::from_secs(10);

/// Publishes the events of a store on a bus. Clones share everything.
#[derive(Clone)]
pub struct Relay {
    store: Arc<dyn EventStore>,
    bus: Arc<dyn Bus>,
    dead_letters: Documents<DeadLetter>,
}

/// What became of a batch.
struct Published {
    /// Published, or kept as dead letters.
    done: Vec<Stored>,
    /// Not published for the moment, in order, and why the first of them was not.
    left: Option<(Vec<Stored>, BusError)>,
}

impl Relay {
    /// A relay from `store` to `bus`.
    ///
    /// # Errors
    /// When the collection of dead letters can't be made.
    pub async fn new(
        store: Arc<dyn EventStore>,
        bus: Arc<dyn Bus>,
        documents: Arc<dyn DocumentStore>,
    ) -> Result<Self, StoreError> {
        Ok(Self { store, bus, dead_letters: Documents::open(documents).await? })
    }

    /// Publishes until `shutdown` what is appended to a store that this process has to itself. Where the bus carries the
    /// store there is nothing to do.
    ///
    /// # Errors
    /// When the store fails for good.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), StoreError> {
        if self.bus.carries_store() {
            shutdown.cancelled().await;
            return Ok(());
        }
        let types: Vec<EventType> = Catalog::get().event_types().collect();
        // Before the first look: nothing that is appended in between goes unseen.
        let wake = self.store.live().wake_on(&types);
        let mut wait = BACKOFF.0;
        while !shutdown.is_cancelled() {
            let published = {
                let mut publish = std::pin::pin!(self.publish_pending());
                match shutdown.run_until_cancelled(&mut publish).await {
                    Some(published) => published,
                    None => match timeout(FAREWELL, publish).await {
                        Ok(published) => published,
                        Err(_) => return Ok(()),
                    },
                }
            };
            match published {
                Ok(0) => {
                    wait = BACKOFF.0;
                    shutdown.run_until_cancelled(wake.woken()).await;
                }
                Ok(_) => wait = BACKOFF.0,
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "can't publish; trying again");
                    shutdown.run_until_cancelled(sleep(wait)).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
                Err(BusError::Store(error)) => return Err(error),
                Err(error) => return Err(StoreError::Backend(error.to_string())),
            }
        }
        Ok(())
    }

    /// Publishes one batch. Returns how many events are done with.
    async fn publish_pending(&self) -> Result<usize, BusError> {
        let pending = self.store.unpublished(Position(0), BATCH).await?;
        let published = self.publish(pending.into_iter().map(|unpublished| unpublished.stored).collect()).await?;
        self.mark(&published.done).await?;
        published.left.map_or(Ok(published.done.len()), |(_, error)| Err(error))
    }

    /// Publishes events in this order.
    ///
    /// # Errors
    /// When a dead letter can't be kept: then some of the events may have been published.
    async fn publish(&self, pending: Vec<Stored>) -> Result<Published, BusError> {
        let mut done = Vec::with_capacity(pending.len());
        let (mut sent, mut records) = (Vec::with_capacity(pending.len()), Vec::with_capacity(pending.len()));
        for stored in pending {
            match Record::of(&stored.event) {
                Ok(record) => {
                    sent.push(stored);
                    records.push(record);
                }
                Err(error) => {
                    self.park(&stored, &error).await?;
                    done.push(stored);
                }
            }
        }
        let results = self.bus.publish(records).await;
        let (mut left, mut why) = (Vec::new(), None);
        for (stored, result) in sent.into_iter().zip(results) {
            match result {
                Ok(_) => done.push(stored),
                Err(error) if error.is_transient() => {
                    left.push(stored);
                    why.get_or_insert(error);
                }
                Err(error) => {
                    self.park(&stored, &error).await?;
                    done.push(stored);
                }
            }
        }
        Ok(Published { done, left: why.map(|error| (left, error)) })
    }

    /// Marks events as published.
    async fn mark(&self, done: &[Stored]) -> Result<(), StoreError> {
        if done.is_empty() {
            return Ok(());
        }
        self.store.mark_published(done).await?;
        metrics::counter!("relay_published_total").increment(done.len() as u64);
        Ok(())
    }

    /// Publishes and marks events of a shared store, again and again until it is done.
    async fn publish_all(&self, events: Vec<Stored>) {
        let mut left = events;
        let mut wait = BACKOFF.0;
        while !left.is_empty() {
            // What a failure leaves open is tried again: to publish twice is harmless, to forget is not.
            let again = left.clone();
            match self.publish(left).await {
                Ok(published) => {
                    self.mark_surely(&published.done).await;
                    let Some((rest, error)) = published.left else { return };
                    tracing::warn!(%error, events = rest.len(), "can't publish; trying again");
                    left = rest;
                }
                Err(error) => {
                    tracing::warn!(%error, "can't keep a dead letter; trying again");
                    left = again;
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Marks events as published, again and again until it is done.
    async fn mark_surely(&self, done: &[Stored]) {
        let mut wait = BACKOFF.0;
        while let Err(error) = self.mark(done).await {
            tracing::warn!(%error, "can't mark events as published; trying again");
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Keeps an event that can't be published as a dead letter, so that it blocks no other.
    async fn park(&self, stored: &Stored, error: &BusError) -> Result<(), BusError> {
        let event = &stored.event;
        tracing::error!(event_id = event.event_id, %error, "an event can't be published; kept as a dead letter");
        let event_type = event.payload.as_ref().map_or(EventType::Unspecified, |payload| payload.event_type());
        let delivery = Delivery {
            lane: Lane { event_type, partition: 0 },
            offset: stored.position.0,
            event_type,
            partition: 0,
            key: Bytes::copy_from_slice(event.aggregate_id.as_bytes()),
            extra_headers: Record::of(event).map(|record| record.headers).unwrap_or_default(),
            value: event.encode_to_vec().into(),
            timestamp: event.occurred_at.as_ref().and_then(from_timestamp).unwrap_or(SystemTime::UNIX_EPOCH),
            decoded: None,
        };
        let attempt = Attempt { at: SystemTime::now(), took: Duration::ZERO, errors: vec![error.to_string()] };
        let letter = DeadLetter::new(RELAY, &delivery, crate::Severity::Permanent, vec![attempt], SystemTime::now());
        let letter = letter.decided(&RetryPolicy::preset(RetryPreset::Manual));
        match self.dead_letters.insert(&letter).await {
            // It was kept before a crash came between.
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
