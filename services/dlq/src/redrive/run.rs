//! Carrying redrives on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use runmesh_bus::Pace;
use runmesh_store::{CarryOn, StoreError, Versioned};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    document::{PartDocument, Phase, Progress, RedriveDocument},
    outcomes::Outcomes,
};
use crate::{act, deliver::Refusal, service::Inner, tell::By, view};

/// For how long a redrive is carried on by one process before it has to say so again.
const LEASE: Duration = Duration::from_secs(10);

/// How often it is looked for redrives that nobody carries on.
const LOOK: Duration = Duration::from_millis(500);

/// How many redrives one process carries on at a time.
const AT_A_TIME: usize = 8;

/// How many letters are delivered together.
const BATCH: usize = 64;

/// How many may be on their way to their groups, which take on four times as many records at once: so there is room for live
/// ones.
const ON_THE_WAY: u64 = 256;

/// How often progress is told, at least, and lag is asked for.
const TELL: Duration = Duration::from_millis(500);

/// The wait between two looks at whether more may be delivered.
const TICK: Duration = Duration::from_millis(5);

/// The wait after the store or the bus has failed.
const BACKOFF: Duration = Duration::from_secs(1);

/// How many letters are read at the same time.
const READS: usize = 16;

impl Inner {
    /// Carries redrives on until `shutdown`.
    pub(crate) async fn carry_redrives_on(self: &Arc<Self>, shutdown: &CancellationToken) {
        let how = CarryOn { lease: LEASE, at_a_time: AT_A_TIME, look: LOOK };
        let carry_on = |document| {
            let (inner, shutdown) = (Arc::clone(self), shutdown.clone());
            async move { inner.carry_on(document, &shutdown).await }
        };
        how.run(&self.redrives, &self.redrive_changed, shutdown, carry_on).await;
    }

    async fn carry_on(self: Arc<Self>, redrive: RedriveDocument, shutdown: &CancellationToken) {
        let id = redrive.id.clone();
        if redrive.phase == Phase::Planned {
            self.forget_parts(&id, redrive.parts).await;
            if let Err(error) = self.redrives.delete(&id).await {
                tracing::warn!(redrive_id = id, %error, "a plan that is over is left for the moment");
            }
            return;
        }
        let carrier = Uuid::new_v4().to_string();
        let pace = Pace::new(redrive.rate, Instant::now());
        let mut carried = Carried { inner: &self, redrive, carrier, pace, told_at: None, part: None };
        // A failure ends the turn: the lease runs out, and the redrive is carried on by whoever claims it.
        if let Err(error) = carried.run(shutdown).await {
            tracing::warn!(redrive_id = id, %error, "a redrive was interrupted; it goes on after a moment");
        }
    }
}

/// A redrive in the hands of this process.
struct Carried<'a> {
    inner: &'a Inner,
    redrive: RedriveDocument,
    carrier: String,
    pace: Pace,
    told_at: Option<Instant>,
    part: Option<PartDocument>,
}

impl Carried<'_> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), StoreError> {
        // The one before may still think that it has it.
        if !self.take_over().await? {
            return Ok(());
        }
        while self.redrive.phase.is_active() {
            let outcomes = self.inner.outcomes(&self.redrive.id).await?;
            if self.told_at.is_none_or(|at| at.elapsed() >= TELL) {
                self.ask_for_lag(&outcomes).await?;
                if !self.tell(|_| {}).await? {
                    return Ok(());
                }
            }
            if shutdown.is_cancelled() {
                // Another process may have it at once.
                self.tell(|redrive| redrive.due_at = Some(SystemTime::now())).await?;
                return Ok(());
            }
            let moved_on = self.step(&outcomes).await?;
            if !moved_on {
                shutdown.run_until_cancelled(sleep(TICK)).await;
            }
        }
        Ok(())
    }

    /// Delivers some letters, or comes to an end. Returns whether there may be more to do at once.
    async fn step(&mut self, outcomes: &Outcomes) -> Result<bool, StoreError> {
        let at_the_end = self.redrive.progress.part >= self.redrive.parts;
        let canary_left = match self.redrive.phase {
            Phase::Canary => Some(self.redrive.canary.saturating_sub(self.redrive.progress.delivered)),
            _ => None,
        };
        if at_the_end || canary_left == Some(0) {
            return if outcomes.sent > 0 { Ok(false) } else { self.come_to(at_the_end, outcomes).await };
        }
        let room = ON_THE_WAY.saturating_sub(outcomes.sent).min(canary_left.unwrap_or(u64::MAX)).min(BATCH as u64);
        let allowed = self.pace.allowed(Instant::now(), usize::try_from(room).unwrap_or(BATCH));
        if allowed == 0 {
            return Ok(false);
        }
        let ids = self.next(allowed).await?;
        let (delivered, skipped) = match self.deliver(&ids).await? {
            Some(counts) => counts,
            None => {
                sleep(BACKOFF).await;
                return Ok(true);
            }
        };
        self.pace.sent(ids.len(), Instant::now());
        let progress = &mut self.redrive.progress;
        progress.delivered += delivered;
        progress.skipped += skipped;
        self.advance(ids.len());
        self.tell(|_| {}).await
    }

    /// What comes after the last letter, or after the first ones.
    async fn come_to(&mut self, at_the_end: bool, outcomes: &Outcomes) -> Result<bool, StoreError> {
        let (failed, limit) = (outcomes.failed, self.redrive.canary_failures);
        let phase = if self.redrive.phase == Phase::Canary && failed > limit {
            Phase::Stopped
        } else if at_the_end {
            Phase::Completed
        } else {
            Phase::Running
        };
        let note = match phase {
            Phase::Stopped => format!("{failed} of the first {} failed; {limit} may", self.redrive.progress.delivered),
            _ => String::new(),
        };
        let carried_on = self
            .tell(|redrive| {
                redrive.phase = phase;
                redrive.note.clone_from(&note);
                if !phase.is_active() {
                    redrive.ended_at = Some(SystemTime::now());
                    redrive.current_rate = 0.0;
                    redrive.throttled = false;
                }
            })
            .await?;
        if phase == Phase::Completed && carried_on {
            self.inner.forget_parts(&self.redrive.id, self.redrive.parts).await;
        }
        Ok(carried_on)
    }

    /// The next ids, at most `count`, of the part that is at hand.
    async fn next(&mut self, count: usize) -> Result<Vec<String>, StoreError> {
        let Progress { part, place, .. } = self.redrive.progress;
        if self.part.as_ref().is_none_or(|known| known.number != part) {
            let found = self.inner.parts.get(&PartDocument::id_of(&self.redrive.id, part)).await?;
            let lost = || StoreError::Corrupt(format!("part {part} of redrive {} is missing", self.redrive.id));
            self.part = Some(found.ok_or_else(lost)?.document);
        }
        let ids = self.part.as_ref().map(|part| part.ids.as_slice()).unwrap_or_default();
        Ok(ids.iter().skip(place).take(count).cloned().collect())
    }

    fn advance(&mut self, count: usize) {
        let progress = &mut self.redrive.progress;
        progress.place += count;
        if self.part.as_ref().is_none_or(|part| progress.place >= part.ids.len()) {
            progress.part += 1;
            progress.place = 0;
        }
    }

    /// Delivers letters. Returns how many were delivered and how many were left alone. `None`: for the moment that is not
    /// possible, or not known; the same ones are looked at again.
    async fn deliver(&self, ids: &[String]) -> Result<Option<(u64, u64)>, StoreError> {
        let documents = self.inner.letters.documents();
        let reads = ids.iter().cloned().map(|id| async move { documents.get(&id).await });
        let read: Vec<_> = stream::iter(reads).buffered(READS).try_collect().await?;
        let (mut delivered, mut skipped, mut letters) = (0, 0, Vec::new());
        for found in read {
            match found {
                // A crash came after it was delivered and before that was counted.
                Some(found) if view::is_in_redrive(&found.document, &self.redrive.id) => delivered += 1,
                Some(found) if act::obstacle(&found.document).is_none() => letters.push(found),
                _ => skipped += 1,
            }
        }
        let by = By { actor: &self.redrive.actor, reason: &self.redrive.reason };
        let letters: Vec<Versioned<_>> = letters;
        for outcome in self.inner.deliver(letters, by, Some(&self.redrive.id), SystemTime::now()).await {
            match outcome {
                Ok(()) => delivered += 1,
                Err(Refusal::Changed) => skipped += 1,
                Err(Refusal::Failed(why)) => {
                    tracing::warn!(redrive_id = self.redrive.id, why, "can't deliver; trying again");
                    return Ok(None);
                }
            }
        }
        Ok(Some((delivered, skipped)))
    }

    async fn ask_for_lag(&mut self, outcomes: &Outcomes) -> Result<(), StoreError> {
        let mut behind = 0;
        for group in self.inner.groups.groups().await? {
            let topics: Vec<_> = group
                .topics
                .iter()
                .copied()
                .filter(|topic| self.redrive.targets.iter().any(|target| target.is(group.name.as_str(), *topic)))
                .collect();
            if topics.is_empty() {
                continue;
            }
            match self.inner.bus.lag(group.name, &topics).await {
                Ok(lag) => behind += lag.iter().map(|lag| lag.records).sum::<u64>(),
                Err(error) => tracing::debug!(%error, "the lag is not known"),
            }
        }
        let live = behind.saturating_sub(outcomes.sent);
        self.pace.lag(live);
        self.redrive.live_lag = live;
        Ok(())
    }

    async fn take_over(&mut self) -> Result<bool, StoreError> {
        let carrier = self.carrier.clone();
        let taken = |known: Option<&RedriveDocument>| {
            let known = known.filter(|known| known.phase.is_active())?.clone();
            Some(RedriveDocument { carrier: carrier.clone(), due_at: Some(SystemTime::now() + LEASE), ..known })
        };
        let taken = self.inner.redrives.change(&self.redrive.id, taken).await?;
        let is_mine = taken.is_some();
        self.redrive = taken.unwrap_or_else(|| self.redrive.clone());
        Ok(is_mine)
    }

    /// Keeps how far it is, and learns what an operator has changed. Returns whether it is still this one's to carry on.
    async fn tell(&mut self, also: impl Fn(&mut RedriveDocument)) -> Result<bool, StoreError> {
        let (mine, pace) = (self.redrive.clone(), (self.pace.is_throttled(), self.pace.current()));
        let told = |known: Option<&RedriveDocument>| {
            let known = known.filter(|known| known.carrier == mine.carrier && !known.phase.is_over())?.clone();
            let phase = known.phase;
            let mut told = RedriveDocument {
                progress: mine.progress,
                live_lag: mine.live_lag,
                updated_at: SystemTime::now(),
                ..known
            };
            if phase.is_active() {
                (told.throttled, told.current_rate) = pace;
                told.due_at = Some(SystemTime::now() + LEASE);
                also(&mut told);
            }
            Some(told)
        };
        self.told_at = Some(Instant::now());
        match self.inner.redrives.change(&self.redrive.id, told).await? {
            Some(told) => {
                self.redrive = told;
                Ok(self.redrive.phase.is_active())
            }
            None => {
                // It was cancelled, or another one has it.
                self.redrive.phase = Phase::Cancelled;
                Ok(false)
            }
        }
    }
}
