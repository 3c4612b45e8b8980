//! What happens to one record.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures::FutureExt as _;
use runmesh_events::{Catalog, Event, TraceParent};
use runmesh_store::{Documents, StoreError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{BACKOFF, ConsumerGroup, HandlerError, Incoming, KeyedQueue, Progress, Severity};
use crate::{Attempt, DeadLetter, Delivery, header};

pub(super) struct Worker {
    pub(super) group: Arc<ConsumerGroup>,
    pub(super) dead_letters: Documents<DeadLetter>,
    pub(super) progress: Arc<Progress>,
    pub(super) shutdown: CancellationToken,
}

/// How a delivery ended.
enum Outcome {
    Handled,
    Skipped,
    DeadLetter,
    /// The shutdown came first. The record is not finished and will be delivered again.
    Unfinished,
}

impl Outcome {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Skipped => "skipped",
            Self::DeadLetter => "dead_letter",
            Self::Unfinished => "unfinished",
        }
    }
}

impl Worker {
    pub(super) async fn run(self, queue: Arc<KeyedQueue>) {
        while let Some((delivery, permit)) = queue.next().await {
            let started = Instant::now();
            let outcome = self.deliver(&delivery).await;
            let group = self.group.name.as_str();
            let topic = Catalog::get().topic(delivery.event_type).map_or("", |topic| topic.name.as_str());
            metrics::counter!("consumer_records_total", "group" => group, "topic" => topic, "outcome" => outcome.as_str())
                .increment(1);
            metrics::histogram!("consumer_handle_seconds", "group" => group, "topic" => topic)
                .record(started.elapsed());
            if matches!(outcome, Outcome::Unfinished) {
                // Its key waits for the next start.
                self.progress.given_up(&delivery);
            } else {
                self.progress.finished(&delivery);
                queue.done(&delivery.key);
            }
            drop(permit);
        }
    }

    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let for_other = delivery.header(header::REDRIVE_GROUP).is_some_and(|group| group != self.group.name.as_str());
        if for_other || (delivery.header(header::REPLAY).is_some() && !self.group.sees_replays) {
            return Outcome::Skipped;
        }
        match delivery.event() {
            Ok(event) => self.attempt(event, delivery).await,
            Err(reason) => {
                let attempt = Attempt { at: SystemTime::now(), took: Default::default(), errors: vec![reason] };
                self.bury(delivery, Severity::Poison, vec![attempt]).await
            }
        }
    }

    async fn attempt(&self, event: Arc<Event>, delivery: &Delivery) -> Outcome {
        let mut attempts = Vec::new();
        let mut outage = BACKOFF.0;
        loop {
            let (at, started) = (SystemTime::now(), Instant::now());
            let Err(error) = self.handle(&event, delivery).await else { return Outcome::Handled };
            attempts.push(Attempt { at, took: started.elapsed(), errors: error.chain() });
            let tries = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
            let wait = self.group.retry.wait_after(tries).filter(|_| error.severity() == Severity::Transient);
            tracing::debug!(group = %self.group.name, event_id = event.event_id, %error, tries, retried = wait.is_some(), "handler failed");
            let wait = match wait {
                Some(wait) => wait,
                None if error.severity() == Severity::Transient => {
                    match self.bury_once(delivery, error.severity(), attempts.clone()).await {
                        Ok(outcome) => return outcome,
                        // What keeps dead letters is out of order too, so this is an outage and no fault of the record:
                        // the handler gets it again rather than a letter when it is over.
                        Err(_) => {
                            outage = (outage * 2).min(BACKOFF.1);
                            attempts.pop();
                            outage
                        }
                    }
                }
                None => return self.bury(delivery, error.severity(), attempts).await,
            };
            if self.shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
                return Outcome::Unfinished;
            }
        }
    }

    async fn handle(&self, event: &Arc<Event>, delivery: &Delivery) -> Result<(), HandlerError> {
        let span = tracing::info_span!(
            "handle",
            otel.name = delivery.event_type.as_str_name(),
            otel.kind = "consumer",
            group = %self.group.name,
            event_id = event.event_id,
            aggregate_id = event.aggregate_id,
        );
        let trace = TraceParent::adopt(&span, &event.traceparent);
        let incoming = Incoming { event: Arc::clone(event), delivery: delivery.clone(), group: self.group.name, trace };
        AssertUnwindSafe(self.group.handler.handle(&incoming))
            .catch_unwind()
            .instrument(span)
            .await
            .unwrap_or_else(|panic| Err(HandlerError::permanent(format!("the handler panicked: {}", words(&*panic)))))
    }

    /// Makes the failure durable. It does not give up: the offset is not committed before it is.
    async fn bury(&self, delivery: &Delivery, severity: Severity, attempts: Vec<Attempt>) -> Outcome {
        let mut wait = BACKOFF.0;
        loop {
            if let Ok(outcome) = self.bury_once(delivery, severity, attempts.clone()).await {
                return outcome;
            }
            if self.shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
                return Outcome::Unfinished;
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn bury_once(
        &self,
        delivery: &Delivery,
        severity: Severity,
        attempts: Vec<Attempt>,
    ) -> Result<Outcome, StoreError> {
        let letter = DeadLetter::new(self.group.name, delivery, severity.as_str(), attempts);
        self.store(letter.clone()).await.inspect_err(|error| {
            tracing::error!(group = %self.group.name, %error, id = letter.id, "can't keep a dead letter; trying again");
        })?;
        tracing::warn!(
            group = letter.group,
            topic = letter.topic,
            id = letter.id,
            event_id = letter.event_id,
            error = letter.attempts.last().and_then(|attempt| attempt.errors.first()).map(String::as_str),
            "dead letter"
        );
        Ok(Outcome::DeadLetter)
    }

    async fn store(&self, letter: DeadLetter) -> Result<(), StoreError> {
        match self.dead_letters.get(&letter.id).await? {
            Some(known) => {
                let revision = known.revision;
                self.dead_letters.update(&known.document.failed_again(letter), revision).await.map(drop)
            }
            None => self.dead_letters.insert(&letter).await.map(drop),
        }
    }
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without words")
}
