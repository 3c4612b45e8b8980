//! Carrying replays on.

mod deliver;
mod lease;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use runmesh_bus::Pace;
use runmesh_store::{CarryOn, StoreError};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    document::{Progress, Range, ReplayDocument},
    gaps::Gaps,
    plan::Plan,
    service::Inner,
    session::Phase,
    source::{Item, Page, Source, SourceError},
    target::{Opened, SendError, Target},
};

/// For how long a replay is carried on by one process before it has to say so again.
const LEASE: Duration = Duration::from_secs(10);

/// How often it is looked for replays that nobody carries on.
const LOOK: Duration = Duration::from_millis(500);

/// How often a checkpoint is kept: while events are sent, and otherwise.
const KEEP: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// After how many events a checkpoint is kept in any case: no more than these are sent twice after a crash, and a batch.
const KEEP_EVENTS: u64 = 10_000;

/// How often the lag is asked for.
const LAG: Duration = Duration::from_millis(500);

/// The wait between two looks at whether more may be sent.
const TICK: Duration = Duration::from_millis(2);

/// How many pages are read ahead.
const AHEAD: usize = 2;

/// What can interrupt a replay. It goes on after a moment, here or elsewhere, from its checkpoint.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Send(#[from] SendError),
}

/// What comes next.
enum Step {
    /// There may be more to do at once.
    On,
    /// Nothing is to be done before then.
    Wait(Instant),
    /// It has come to an end: how, and why.
    Over(Phase, String),
    /// It is another one's now, or this process ends.
    Leave,
}

impl Inner {
    /// Carries replays on until `shutdown`.
    pub(crate) async fn carry_replays_on(self: &Arc<Self>, shutdown: &CancellationToken) {
        let how = CarryOn { lease: LEASE, at_a_time: self.settings.at_a_time, look: LOOK };
        let carry_on = |document| {
            let (inner, shutdown) = (Arc::clone(self), shutdown.clone());
            async move { inner.carry_on(document, &shutdown).await }
        };
        how.run(&self.replays, &self.changed, shutdown, carry_on).await;
    }

    async fn carry_on(self: Arc<Self>, replay: ReplayDocument, shutdown: &CancellationToken) {
        let id = replay.id.clone();
        // A failure ends the turn: the lease runs out, and the replay is carried on by whoever claims it.
        if let Err(error) = self.try_to_carry_on(replay, shutdown).await {
            tracing::warn!(replay_id = id, %error, "a replay was interrupted; it goes on after a moment");
        }
    }

    async fn try_to_carry_on(&self, replay: ReplayDocument, shutdown: &CancellationToken) -> Result<(), RunError> {
        let carrier = Uuid::new_v4().to_string();
        // The one before may still think that it has it.
        let Some(mut replay) = self.take_over(&replay.id, &carrier).await? else { return Ok(()) };
        let plan = match self.plan_of(&replay) {
            Ok(plan) => plan,
            Err(error) => return self.give_up(&replay.id, &carrier, &error.to_string()).await,
        };
        let opened = match self.while_renewing(&replay.id, &carrier, self.open_target(&replay, &plan)).await {
            Ok(opened) => opened,
            Err(error) if error.transient => return Err(error.into()),
            Err(error) => return self.give_up(&replay.id, &carrier, &error.to_string()).await,
        };
        let Opened { target, resumes, begins_late } = opened;
        let mut started = replay.started_at.unwrap_or(replay.created_at);
        if !resumes {
            replay.progress = Progress { ran: replay.progress.ran, ..Progress::default() };
            replay.failures.clear();
            if begins_late {
                replay.range = Range { first: None, end: self.sources.end(&plan).await? };
                started = SystemTime::now();
            }
        }
        let source = match self.sources.open(&plan, replay.progress.place, replay.range, started).await {
            Ok(source) => source,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return self.give_up(&replay.id, &carrier, &error.to_string()).await,
        };
        let mut carried = Carried::new(self, replay, plan, carrier, target, source);
        carried.run(shutdown).await
    }

    async fn open_target(&self, replay: &ReplayDocument, plan: &Plan) -> Result<Opened, SendError> {
        if let Some(name) = plan.target.read_model().filter(|_| !plan.dry_run) {
            self.free(name).await?;
        }
        self.targets.open(&replay.id, plan, &replay.progress).await
    }
}

/// A replay in the hands of this process.
struct Carried<'a> {
    inner: &'a Inner,
    replay: ReplayDocument,
    plan: Plan,
    carrier: String,
    target: Box<dyn Target>,
    pages: mpsc::Receiver<Result<Page, SourceError>>,
    reader: JoinHandle<()>,
    /// What is left of the page at hand.
    queue: VecDeque<Item>,
    /// Up to where that goes, and how many were looked at behind its last event that is meant.
    page: (u64, u64),
    pace: Pace,
    gaps: Gaps,
    kept_at: Instant,
    /// How many events were dealt with since a checkpoint was kept.
    unkept: u64,
    asked_at: Option<Instant>,
    running_since: Instant,
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads ahead.
async fn read(mut source: Box<dyn Source>, pages: mpsc::Sender<Result<Page, SourceError>>) {
    loop {
        let page = source.next().await;
        let is_last = page.is_err();
        let Some(page) = page.transpose() else { return };
        if pages.send(page).await.is_err() || is_last {
            return;
        }
    }
}

impl<'a> Carried<'a> {
    fn new(
        inner: &'a Inner,
        replay: ReplayDocument,
        plan: Plan,
        carrier: String,
        target: Box<dyn Target>,
        source: Box<dyn Source>,
    ) -> Self {
        let now = Instant::now();
        let (sender, pages) = mpsc::channel(AHEAD);
        Self {
            pace: Pace::new(plan.rate, now),
            gaps: Gaps::new(plan.speed, replay.progress.event_time, now),
            reader: tokio::spawn(read(source, sender)),
            queue: VecDeque::new(),
            page: (replay.progress.place, 0),
            kept_at: now,
            unkept: 0,
            asked_at: None,
            running_since: now,
            inner,
            replay,
            plan,
            carrier,
            target,
            pages,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), RunError> {
        loop {
            if shutdown.is_cancelled() {
                // Another process may have it at once.
                self.keep(|replay| replay.due_at = Some(SystemTime::now())).await?;
                return Ok(());
            }
            if self.is_to_be_kept() && !self.keep(|_| {}).await? {
                return Ok(());
            }
            if self.asked_at.is_none_or(|at| at.elapsed() >= LAG) {
                self.ask_for_lag().await?;
            }
            match self.step(shutdown).await? {
                Step::On => {}
                Step::Wait(until) => {
                    let until = until.min(self.keep_at());
                    shutdown.run_until_cancelled(sleep_until(until)).await;
                }
                Step::Over(phase, note) => return self.end(phase, note).await,
                Step::Leave => return Ok(()),
            }
        }
    }

    /// Sends some events, or comes to an end.
    async fn step(&mut self, shutdown: &CancellationToken) -> Result<Step, RunError> {
        let left = match self.plan.max_events {
            Some(most) => most.saturating_sub(self.replay.progress.sent + self.replay.progress.failed),
            None => u64::MAX,
        };
        if left == 0 {
            return Ok(Step::Over(Phase::Completed, String::new()));
        }
        if self.queue.is_empty() {
            return self.next_page().await;
        }
        let now = Instant::now();
        let most = self.plan.batch.min(usize::try_from(left).unwrap_or(usize::MAX));
        let allowed = self.pace.allowed(now, most);
        let batch = self.batch(allowed, now);
        if batch.is_empty() {
            let due = self.queue.front().and_then(Item::time).map_or(now, |time| self.gaps.due(time, now));
            return Ok(Step::Wait(due.max(now + TICK)));
        }
        self.deliver(batch, shutdown).await
    }

    async fn next_page(&mut self) -> Result<Step, RunError> {
        match timeout(KEEP.0, self.pages.recv()).await {
            Err(_) => Ok(Step::On),
            Ok(None) => Ok(Step::Over(Phase::Completed, String::new())),
            Ok(Some(Err(error))) if error.is_transient() => Err(error.into()),
            Ok(Some(Err(error))) => Ok(Step::Over(Phase::Failed, error.to_string())),
            Ok(Some(Ok(page))) => {
                self.replay.range.first = self.replay.range.first.or(page.before);
                let rest = page.scanned - page.items.iter().map(|item| item.scanned).sum::<u64>();
                self.queue = page.items.into();
                self.page = (page.upto, rest);
                if self.queue.is_empty() {
                    self.page_is_done();
                }
                Ok(Step::On)
            }
        }
    }

    /// Everything up to the end of the page at hand is done.
    fn page_is_done(&mut self) {
        let progress = &mut self.replay.progress;
        progress.place = self.page.0;
        progress.scanned += std::mem::take(&mut self.page.1);
    }

    /// Takes the next events that are due, at most `allowed`, and those between that do not concern the target. Events of one
    /// place stay together: a checkpoint can't lie between them.
    fn batch(&mut self, allowed: usize, now: Instant) -> Vec<(Item, bool)> {
        let mut batch: Vec<(Item, bool)> = Vec::new();
        let mut count = 0;
        while let Some(item) = self.queue.front() {
            let wanted = self.is_wanted(item);
            if wanted {
                let is_tied = batch.last().is_some_and(|(last, _)| last.place == item.place);
                let time = item.time();
                let is_due = time.is_none_or(|time| self.gaps.due(time, now) <= now);
                if !is_tied && (count >= allowed || !is_due) {
                    break;
                }
                count += 1;
            }
            batch.extend(self.queue.pop_front().map(|item| (item, wanted)));
        }
        batch
    }

    fn is_wanted(&self, item: &Item) -> bool {
        let Ok(event) = &item.event else { return true };
        event.payload.as_ref().is_none_or(|payload| self.target.wants(payload.event_type()))
    }

    async fn ask_for_lag(&mut self) -> Result<(), RunError> {
        self.asked_at = Some(Instant::now());
        let behind = self.target.behind().await?;
        // What was sent since the groups last told how far they are is theirs to be behind on. Going by whole records.
        let own = self.pace.current() * LAG.as_secs_f64();
        self.pace.lag(behind.saturating_sub(own as u64));
        self.replay.live_lag = behind;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
