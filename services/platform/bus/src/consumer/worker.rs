//! What happens to one record.

use std::{panic::AssertUnwindSafe, sync::Arc, time::SystemTime};

use futures::FutureExt as _;
use runmesh_events::{Catalog, Event, GroupName, TraceParent};
use runmesh_store::{StoreError, Versioned, in_background};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    BACKOFF, ConsumerGroup, Guard, HandlerError, Incoming, KeyedQueue, PausedGroups, Progress, Severity,
    guard::{Failure, Pause},
    resolver::Handled,
};
use crate::{Attempt, DeadLetter, DeadLetters, Delivery, dead_letter::Redrive, header};

pub(super) struct Worker {
    pub(super) group: Arc<ConsumerGroup>,
    pub(super) dead_letters: DeadLetters,
    pub(super) paused: PausedGroups,
    pub(super) guard: Arc<Guard>,
    pub(super) progress: Arc<Progress>,
    pub(super) shutdown: CancellationToken,
    /// Takes redrives that were handled, of which their letters have to know.
    pub(super) resolver: mpsc::Sender<Handled>,
}

/// How a delivery ended.
enum Outcome {
    Handled,
    /// It was handled, and is the redrive that this letter waits for.
    Resolves(Box<Versioned<DeadLetter>>),
    Skipped,
    DeadLetter,
    /// The shutdown came first. The record is not finished and will be delivered again.
    Unfinished,
}

impl Outcome {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Handled | Self::Resolves(_) => "handled",
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
            // What is delivered again disturbs nobody.
            let outcome = if delivery.is_repeated() {
                // Where nothing has to be waited for, a worker would go on for long before others have their turn.
                yield_now().await;
                in_background(self.deliver(&delivery)).await
            } else {
                self.deliver(&delivery).await
            };
            let group = self.group.name.as_str();
            let topic = Catalog::get().name(delivery.event_type);
            metrics::counter!("consumer_records_total", "group" => group, "topic" => topic, "outcome" => outcome.as_str())
                .increment(1);
            metrics::histogram!("consumer_handle_seconds", "group" => group, "topic" => topic)
                .record(started.elapsed());
            match outcome {
                // Its key waits for the next start.
                Outcome::Unfinished => self.progress.given_up(&delivery),
                // Its key waits until that is kept. The worker does not, unless too much is waiting for that already.
                Outcome::Resolves(letter) => match self.resolver.reserve().await {
                    Ok(place) => {
                        queue.handled(&delivery);
                        place.send(Handled { delivery, letter, _permit: permit });
                    }
                    Err(mpsc::error::SendError(())) => self.progress.given_up(&delivery),
                },
                Outcome::Handled | Outcome::Skipped | Outcome::DeadLetter => {
                    self.progress.finished(&delivery);
                    queue.handled(&delivery);
                    queue.done(&delivery);
                }
            }
        }
    }

    async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let redriven_to = delivery.header(header::REDRIVE_GROUP);
        let for_other = redriven_to.is_some_and(|group| group != self.group.name.as_str());
        if for_other || (delivery.header(header::REPLAY).is_some() && !self.group.sees_replays) {
            return Outcome::Skipped;
        }
        let mut awaited = None;
        // A replay for one group alone is of no letter.
        if redriven_to.is_some() && delivery.header(header::DEAD_LETTER).is_some() {
            let Some(found) = self.surely(|| self.dead_letters.redrive(self.group.name, delivery)).await else {
                return Outcome::Unfinished;
            };
            match found {
                Redrive::Awaited(letter) => awaited = Some(letter),
                Redrive::Stale => return Outcome::Skipped,
                Redrive::Unknown => {}
            }
        }
        let event = match delivery.event() {
            Ok(event) => event,
            Err(reason) => {
                let attempt = Attempt { at: SystemTime::now(), took: Default::default(), errors: vec![reason] };
                return self.bury(delivery, Severity::Poison, vec![attempt]).await;
            }
        };
        match self.surely(|| self.waits_behind(&event, delivery)).await {
            None => return Outcome::Unfinished,
            Some(true) => return Outcome::DeadLetter,
            Some(false) => {}
        }
        match (self.attempt(event, delivery).await, awaited) {
            // That is kept before its offset is committed: otherwise nobody would ever learn of it.
            (Outcome::Handled, Some(letter)) => Outcome::Resolves(letter),
            (outcome, _) => outcome,
        }
    }

    /// Whether an earlier event of the aggregate is a dead letter that is not over, where order is kept. Then this one waits
    /// behind it, as a letter too.
    async fn waits_behind(&self, event: &Event, delivery: &Delivery) -> Result<bool, StoreError> {
        if !self.dead_letters.policy(self.group.name, delivery.event_type).await?.keep_order {
            return Ok(false);
        }
        let group = self.group.name;
        let Some(first) = self.dead_letters.first_open(group.as_str(), &event.aggregate_id).await? else {
            return Ok(false);
        };
        if first.id == DeadLetter::id_of_delivery(group, delivery) || first.sequence >= event.sequence {
            return Ok(false);
        }
        let letter = DeadLetter::new(group, delivery, Severity::Transient, Vec::new(), SystemTime::now());
        self.dead_letters.keep_behind(&first, letter).await?;
        Ok(true)
    }

    async fn surely<T, F>(&self, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        surely(self.group.name, &self.shutdown, ask).await
    }

    async fn attempt(&self, event: Arc<Event>, delivery: &Delivery) -> Outcome {
        let mut attempts = Vec::new();
        let mut outage = BACKOFF.0;
        let mut probe = None;
        loop {
            // One that is tried again at once still has its turn. What is begun during a shutdown, because it closes a gap, is
            // handled all the same where it need not wait.
            if attempts.is_empty() && self.guard.is_paused() {
                match self.shutdown.run_until_cancelled(self.guard.pass()).await {
                    Some(turn) => probe = turn,
                    None => return Outcome::Unfinished,
                }
            }
            let (at, started) = (SystemTime::now(), Instant::now());
            let Err(error) = self.handle(&event, delivery).await else {
                self.works().await;
                return Outcome::Handled;
            };
            attempts.push(Attempt { at, took: started.elapsed(), errors: error.chain() });
            let tries = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
            let is_transient = error.severity() == Severity::Transient;
            let wait = self.group.retry.wait_after(tries).filter(|_| is_transient);
            tracing::debug!(group = %self.group.name, event_id = event.event_id, %error, tries, retried = wait.is_some(), "handler failed");
            let wait = match wait {
                Some(wait) => wait,
                None if is_transient => {
                    let failure = self.guard.fails(&delivery.key, &error.to_string(), started, probe);
                    if let Failure::Held(pause) = &failure {
                        self.tell(pause).await;
                    }
                    if failure != Failure::OfRecord {
                        // The record is tried again at its turn, as if it had just come.
                        attempts.clear();
                        continue;
                    }
                    match self.bury_once(delivery, error.severity(), attempts.clone()).await {
                        Ok(outcome) => return outcome,
                        // What keeps dead letters is out of order too, so this is an outage and no fault of the record:
                        // the handler gets it again rather than a letter when it is over.
                        Err(error) => {
                            tracing::error!(group = %self.group.name, %error, "can't keep a dead letter; trying again");
                            outage = (outage * 2).min(BACKOFF.1);
                            attempts.pop();
                            outage
                        }
                    }
                }
                None => {
                    self.works().await;
                    return self.bury(delivery, error.severity(), attempts).await;
                }
            };
            if self.shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
                return Outcome::Unfinished;
            }
        }
    }

    async fn tell(&self, pause: &Pause) {
        self.paused.tell(self.group.name, Some(pause)).await;
        if !self.guard.is_paused() {
            // Another worker got through meanwhile, and may have told so before this.
            self.paused.tell(self.group.name, None).await;
        }
    }

    /// The handler does what it should, so the group is not to be paused.
    async fn works(&self) {
        if self.guard.works() {
            self.paused.tell(self.group.name, None).await;
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
        let buried = self.surely(|| self.bury_once(delivery, severity, attempts.clone())).await;
        buried.unwrap_or(Outcome::Unfinished)
    }

    async fn bury_once(
        &self,
        delivery: &Delivery,
        severity: Severity,
        attempts: Vec<Attempt>,
    ) -> Result<Outcome, StoreError> {
        let group = self.group.name;
        let failure = DeadLetter::new(group, delivery, severity, attempts, SystemTime::now());
        let letter = self.dead_letters.bury(group, delivery.event_type, failure).await?;
        tracing::warn!(
            group = letter.group,
            topic = letter.topic,
            id = letter.id,
            event_id = letter.event_id,
            state = letter.state.as_str(),
            error = letter.error(),
            "dead letter"
        );
        Ok(Outcome::DeadLetter)
    }
}

/// What the store says, however often it has to be asked. `None`: the shutdown came first.
pub(super) async fn surely<T, F>(group: GroupName, shutdown: &CancellationToken, ask: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut wait = BACKOFF.0;
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(error) => tracing::error!(%group, %error, "can't reach the dead letters; trying again"),
        }
        shutdown.run_until_cancelled(sleep(wait)).await?;
        wait = (wait * 2).min(BACKOFF.1);
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
