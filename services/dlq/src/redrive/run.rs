//! Carrying redrives on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use runmesh_bus::Pace;
use runmesh_store::{CarryOn, StoreError};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    document::{PartDocument, Phase, Progress, RedriveDocument},
    line::{Counts, Line, Place},
    outcomes::Outcomes,
};
use crate::service::Inner;

/// For how long a redrive is carried on by one process before it has to say so again.
const LEASE: Duration = Duration::from_secs(10);

/// How often it is looked for redrives that nobody carries on.
const LOOK: Duration = Duration::from_millis(500);

/// How many redrives one process carries on at a time.
const AT_A_TIME: usize = 8;

/// How many letters are delivered together.
const BATCH: usize = 64;

/// How many may be on their way to their groups, which take on 1,024 records at once: so there is room for live ones.
const ON_THE_WAY: u64 = 512;

/// How often progress is kept while letters are delivered. What a crash makes it go through again carries its mark.
const KEEP: Duration = Duration::from_millis(100);

/// How often progress is told, at least, and lag is asked for.
const TELL: Duration = Duration::from_millis(500);

/// The wait between two looks at whether more may be delivered.
const TICK: Duration = Duration::from_millis(5);

/// The wait after the store or the bus has failed.
const BACKOFF: Duration = Duration::from_secs(1);

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
        let line = Line::new(&self, &redrive);
        let next = Place::of(redrive.progress);
        let mut carried = Carried {
            inner: &self,
            kept: redrive.progress,
            redrive,
            carrier,
            pace,
            told_at: None,
            taken_at: None,
            part: None,
            line,
            next,
        };
        // A failure ends the turn: the lease runs out, and the redrive is carried on by whoever claims it.
        if let Err(error) = carried.run(shutdown).await {
            tracing::warn!(redrive_id = id, %error, "a redrive was interrupted; it goes on after a moment");
        }
    }
}

/// What is known of the letters that are on their way to their groups.
#[derive(Default)]
struct Look {
    outcomes: Outcomes,
    /// How many there are at most, with those in the line.
    on_the_way: u64,
    at: Option<Instant>,
}

/// A redrive in the hands of this process.
struct Carried<'a> {
    inner: &'a Inner,
    redrive: RedriveDocument,
    /// How far it is as the store knows it.
    kept: Progress,
    carrier: String,
    pace: Pace,
    told_at: Option<Instant>,
    /// When letters last came into the line.
    taken_at: Option<Instant>,
    part: Option<PartDocument>,
    line: Line,
    /// Where the letters behind those in the line begin.
    next: Place,
}

impl Carried<'_> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), StoreError> {
        // The one before may still think that it has it.
        if !self.take_over().await? {
            return Ok(());
        }
        let ended = self.work(shutdown).await;
        // What is marked is delivered, whatever came between.
        self.finish().await;
        if ended.is_ok() && self.redrive.phase.is_active() {
            // This process ends; another one may have it at once.
            self.tell(|redrive| redrive.due_at = Some(SystemTime::now())).await?;
        } else if self.redrive.progress != self.kept {
            self.tell(|_| {}).await?;
        }
        ended
    }

    /// Carries it on until it comes to an end, or somebody says so.
    async fn work(&mut self, shutdown: &CancellationToken) -> Result<(), StoreError> {
        let mut asked_at: Option<Instant> = None;
        let mut look = Look::default();
        while self.redrive.phase.is_active() && !shutdown.is_cancelled() {
            // What comes after the last letter is decided when all are out of the line.
            if self.line.len() == 0 || look.at.is_none_or(|at| at.elapsed() >= TICK) {
                let unmarked = self.line.unmarked();
                let outcomes = self.inner.outcomes(&self.redrive.id).await?;
                look = Look { outcomes, on_the_way: outcomes.sent + unmarked, at: Some(Instant::now()) };
                if asked_at.is_none_or(|at| at.elapsed() >= TELL) {
                    self.ask_for_lag(&outcomes).await?;
                    asked_at = look.at;
                }
                if !self.heed().await? {
                    break;
                }
            }
            let moved_on = self.step(&mut look).await?;
            if !moved_on {
                shutdown.run_until_cancelled(sleep(TICK)).await;
            }
        }
        Ok(())
    }

    /// Delivers some letters, or comes to an end. Returns whether there may be more to do at once.
    async fn step(&mut self, look: &mut Look) -> Result<bool, StoreError> {
        let canary_left = match self.redrive.phase {
            Phase::Canary => self.redrive.canary.saturating_sub(self.redrive.progress.delivered + self.line.len()),
            _ => u64::MAX,
        };
        let at_the_end = self.next.part >= self.redrive.parts;
        let allowed = if at_the_end || !self.line.has_room() { 0 } else { self.allowed(look.on_the_way, canary_left) };
        if allowed == 0 && self.line.len() == 0 {
            let waits = !at_the_end && canary_left > 0;
            let is_known = !waits && look.outcomes.sent == 0;
            return if is_known { self.come_to(at_the_end, &look.outcomes).await } else { Ok(false) };
        }
        if allowed > 0 {
            let ids = self.take(allowed).await?;
            look.on_the_way += ids.len() as u64;
            self.line.push(ids, self.next);
            if self.line.has_room() {
                return Ok(true);
            }
        }
        match self.line.moved(TICK).await {
            Ok(done) => self.count(done),
            Err(why) => {
                tracing::warn!(redrive_id = self.redrive.id, why, "can't deliver; trying again");
                self.finish().await;
                self.next = Place::of(self.redrive.progress);
                sleep(BACKOFF).await;
            }
        }
        Ok(true)
    }

    /// Lets what is in the line be delivered.
    async fn finish(&mut self) {
        let done = self.line.finish().await;
        self.count(done);
    }

    /// How many letters may come into the line now.
    fn allowed(&mut self, on_the_way: u64, canary_left: u64) -> usize {
        let room = ON_THE_WAY.saturating_sub(on_the_way).min(BATCH as u64);
        let most = usize::try_from(room.min(canary_left)).unwrap_or(BATCH);
        let now = Instant::now();
        let allowed = self.pace.allowed(now, most);
        // A few by themselves cost nearly as much as many.
        let wants_more = allowed < BATCH / 2 && self.taken_at.is_some_and(|at| now.duration_since(at) < TICK);
        if wants_more { 0 } else { allowed }
    }

    fn count(&mut self, done: impl IntoIterator<Item = (Counts, Place)>) {
        let progress = &mut self.redrive.progress;
        for (counts, after) in done {
            (progress.part, progress.place) = (after.part, after.place);
            progress.delivered += counts.delivered;
            progress.skipped += counts.skipped;
        }
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
    async fn take(&mut self, count: usize) -> Result<Vec<String>, StoreError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let Place { part: number, place } = self.next;
        let part = match self.part.take().filter(|known| known.number == number) {
            Some(known) => known,
            None => {
                let found = self.inner.parts.get(&PartDocument::id_of(&self.redrive.id, number)).await?;
                let lost = || StoreError::Corrupt(format!("part {number} of redrive {} is missing", self.redrive.id));
                found.ok_or_else(lost)?.document
            }
        };
        let ids: Vec<String> = part.ids.iter().skip(place).take(count).cloned().collect();
        let place = place + ids.len();
        let is_over = place >= part.ids.len();
        self.next = if is_over { Place { part: number + 1, place: 0 } } else { Place { part: number, place } };
        self.part = Some(part);
        let now = Instant::now();
        self.pace.sent(ids.len(), now);
        self.taken_at = Some(now);
        Ok(ids)
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
        (self.kept, self.next) = (self.redrive.progress, Place::of(self.redrive.progress));
        Ok(is_mine)
    }

    /// Learns what an operator has changed, and keeps from time to time how far it is. Returns whether it is still this one's
    /// to carry on.
    async fn heed(&mut self) -> Result<bool, StoreError> {
        let has_more = self.redrive.progress != self.kept;
        if self.told_at.is_none_or(|at| at.elapsed() >= if has_more { KEEP } else { TELL }) {
            return self.tell(|_| {}).await;
        }
        match self.inner.redrives.get(&self.redrive.id).await? {
            Some(known) if known.document.carrier == self.carrier && known.document.phase.is_active() => Ok(true),
            _ => self.tell(|_| {}).await,
        }
    }

    /// Keeps how far it is, and learns what an operator has changed. Returns whether it is still this one's to carry on.
    async fn tell(&mut self, also: impl Fn(&mut RedriveDocument)) -> Result<bool, StoreError> {
        let (mine, pace) = (self.redrive.clone(), (self.pace.is_throttled(), self.pace.current()));
        let told = |known: Option<&RedriveDocument>| {
            let known = known.filter(|known| known.carrier == mine.carrier)?.clone();
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
                (self.kept, self.redrive) = (told.progress, told);
                Ok(self.redrive.phase.is_active())
            }
            None => {
                // Another one has it.
                self.redrive.phase = Phase::Cancelled;
                Ok(false)
            }
        }
    }
}
