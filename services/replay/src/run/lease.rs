//! Who has a replay, and how far it is: what is kept.

use std::time::{Duration, SystemTime};

use runmesh_store::StoreError;
use tokio::time::{Instant, sleep};

use super::{Carried, KEEP, KEEP_EVENTS, LEASE, RunError};
use crate::{document::ReplayDocument, service::Inner, session::Phase};

/// How often a lease is renewed during one long step.
const RENEW: Duration = Duration::from_secs(3);

impl Inner {
    /// Takes a replay over. `None`: it does not run any more.
    pub(super) async fn take_over(&self, id: &str, carrier: &str) -> Result<Option<ReplayDocument>, StoreError> {
        let taken = |known: Option<&ReplayDocument>| {
            let known = known.filter(|known| known.phase == Phase::Running)?.clone();
            let taken = known.taken.saturating_add(1);
            let due_at = Some(SystemTime::now() + LEASE);
            Some(ReplayDocument { carrier: carrier.to_owned(), taken, due_at, ..known })
        };
        self.replays.change(id, taken).await
    }

    /// Ends a replay that can't be gone on with.
    pub(super) async fn give_up(&self, id: &str, carrier: &str, note: &str) -> Result<(), RunError> {
        let now = SystemTime::now();
        let failed = |known: Option<&ReplayDocument>| {
            let known = known.filter(|known| is_mine(known, carrier))?.clone();
            let (phase, note) = (Phase::Failed, note.to_owned());
            Some(ReplayDocument { phase, note, updated_at: now, ended_at: Some(now), due_at: None, ..known })
        };
        self.replays.change(id, failed).await?;
        Ok(())
    }

    /// Does something long, and stays the one who has the replay.
    pub(super) async fn while_renewing<T>(&self, id: &str, carrier: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(RENEW) => {
                    let renewed = |known: Option<&ReplayDocument>| {
                        let known = known.filter(|known| is_mine(known, carrier))?.clone();
                        Some(ReplayDocument { due_at: Some(SystemTime::now() + LEASE), ..known })
                    };
                    if let Err(error) = self.replays.change(id, renewed).await {
                        tracing::warn!(replay_id = id, %error, "a replay may go to another process");
                    }
                }
            }
        }
    }
}

fn is_mine(replay: &ReplayDocument, carrier: &str) -> bool {
    replay.carrier == carrier && replay.phase == Phase::Running
}

impl Carried<'_> {
    /// When a checkpoint is to be kept next.
    pub(super) fn keep_at(&self) -> Instant {
        self.kept_at + if self.unkept > 0 { KEEP.0 } else { KEEP.1 }
    }

    pub(super) fn is_to_be_kept(&self) -> bool {
        self.unkept >= KEEP_EVENTS || Instant::now() >= self.keep_at()
    }

    /// Makes durable what was sent, and keeps how far it is. Returns whether it is still this one's to carry on.
    pub(super) async fn keep(&mut self, also: impl Fn(&mut ReplayDocument)) -> Result<bool, RunError> {
        let (id, carrier) = (self.replay.id.clone(), self.carrier.clone());
        self.replay.progress.target = self.inner.while_renewing(&id, &carrier, self.target.checkpoint()).await?;
        self.tell(also).await
    }

    /// Keeps how far it is, which the target has durably, and learns what an operator has changed. Returns whether it is still
    /// this one's to carry on.
    pub(super) async fn tell(&mut self, also: impl Fn(&mut ReplayDocument)) -> Result<bool, RunError> {
        let now = Instant::now();
        self.replay.progress.ran += now.saturating_duration_since(self.running_since);
        self.running_since = now;
        (self.kept_at, self.unkept) = (now, 0);
        let (mine, pace) = (self.replay.clone(), (self.pace.is_throttled(), self.pace.current()));
        let told = |known: Option<&ReplayDocument>| {
            let known = known.filter(|known| known.carrier == mine.carrier && known.phase != Phase::Cancelled)?.clone();
            let runs = known.phase == Phase::Running;
            let mut told = ReplayDocument {
                progress: mine.progress.clone(),
                range: mine.range,
                failures: mine.failures.clone(),
                live_lag: mine.live_lag,
                updated_at: SystemTime::now(),
                ..known
            };
            (told.throttled, told.current_rate) = pace;
            if runs {
                told.due_at = Some(SystemTime::now() + LEASE);
                also(&mut told);
            }
            Some(told)
        };
        match self.inner.replays.change(&self.replay.id, told).await? {
            Some(told) => {
                self.replay = told;
                Ok(self.replay.phase == Phase::Running)
            }
            // It was cancelled or deleted, or another one has it.
            None => Ok(false),
        }
    }

    /// Brings it to its end.
    pub(super) async fn end(&mut self, mut phase: Phase, mut note: String) -> Result<(), RunError> {
        // What is wrong with an end is told; what was sent stays.
        if !self.keep(|_| {}).await? {
            return Ok(());
        }
        if phase == Phase::Completed {
            let (id, carrier) = (self.replay.id.clone(), self.carrier.clone());
            match self.inner.while_renewing(&id, &carrier, self.target.finish()).await {
                Ok(()) => {}
                // All was sent: who goes on has nothing to do but this.
                Err(error) if error.transient => return Err(error.into()),
                Err(error) => (phase, note) = (Phase::Failed, error.to_string()),
            }
        }
        self.tell(|replay| {
            (replay.phase, replay.note) = (phase, note.clone());
            (replay.ended_at, replay.due_at) = (Some(SystemTime::now()), None);
        })
        .await?;
        Ok(())
    }
}
