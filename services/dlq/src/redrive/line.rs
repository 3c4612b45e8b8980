//! The letters of a redrive that are on their way to the bus: while some are published, the next ones are read, marked and told
//! of. Each batch is published after the one before it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use runmesh_store::{StoreError, in_background};
use tokio::{
    task::{JoinError, JoinHandle},
    time::timeout,
};

use super::document::{Progress, RedriveDocument};
use crate::{
    act,
    deliver::{Marked, Refusal},
    service::Inner,
    tell::By,
    view,
};

/// How many batches may be in the line.
const BATCHES: usize = 4;

/// Where the letters after some others begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) part: u32,
    pub(super) place: usize,
}

impl Place {
    pub(super) fn of(progress: Progress) -> Self {
        Self { part: progress.part, place: progress.place }
    }
}

/// What became of letters that are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) skipped: u64,
}

/// Letters that are delivered together.
#[derive(Debug)]
struct Batch<T> {
    work: JoinHandle<T>,
    /// How many they are, with those that are left alone.
    count: u64,
    /// Where the next ones begin.
    after: Place,
}

/// Letters that are marked, as far as they could be.
#[derive(Debug)]
struct Ready {
    marked: Marked,
    counts: Counts,
}

/// Why letters are not delivered for the moment.
type Failure = String;

/// The line of one redrive.
pub(super) struct Line {
    work: Arc<Work>,
    marking: VecDeque<Batch<Result<Ready, Failure>>>,
    sending: Option<Batch<Result<Counts, Failure>>>,
    /// Whether a batch has failed, so that what is behind it does not count.
    failed: bool,
}

/// What its tasks share.
struct Work {
    inner: Arc<Inner>,
    redrive_id: String,
    actor: String,
    reason: String,
}

impl Line {
    pub(super) fn new(inner: &Arc<Inner>, redrive: &RedriveDocument) -> Self {
        let RedriveDocument { id, actor, reason, .. } = redrive;
        let (redrive_id, actor, reason) = (id.clone(), actor.clone(), reason.clone());
        let work = Work { inner: Arc::clone(inner), redrive_id, actor, reason };
        Self { work: Arc::new(work), marking: VecDeque::new(), sending: None, failed: false }
    }

    /// How many letters are in it.
    pub(super) fn len(&self) -> u64 {
        self.unmarked() + self.sending.as_ref().map_or(0, |batch| batch.count)
    }

    /// How many of them may not be marked yet.
    pub(super) fn unmarked(&self) -> u64 {
        self.marking.iter().map(|batch| batch.count).sum()
    }

    /// Whether another batch may come into it.
    pub(super) fn has_room(&self) -> bool {
        self.marking.len() < BATCHES
    }

    /// These letters come into the line, behind which others begin at `after`.
    pub(super) fn push(&mut self, ids: Vec<String>, after: Place) {
        let (work, count) = (Arc::clone(&self.work), ids.len() as u64);
        let work = tokio::spawn(in_background(async move { work.mark(ids).await }));
        self.marking.push_back(Batch { work, count, after });
    }

    /// Waits until the line has moved, for so long at most. Returns the letters that are done with, behind which others begin
    /// at a place.
    ///
    /// # Errors
    /// In words, why letters are not delivered for the moment: what is in the line has to be [finished](Line::finish) and then
    /// looked at again.
    pub(super) async fn moved(&mut self, patience: Duration) -> Result<Option<(Counts, Place)>, Failure> {
        let moved = self.try_to_move(patience).await;
        self.failed |= moved.is_err();
        moved
    }

    async fn try_to_move(&mut self, patience: Duration) -> Result<Option<(Counts, Place)>, Failure> {
        if let Some(batch) = &mut self.sending {
            let Ok(sent) = timeout(patience, &mut batch.work).await else { return Ok(None) };
            let after = batch.after;
            self.sending = None;
            return Ok(Some((flat(sent)?, after)));
        }
        if let Some(batch) = self.marking.front_mut() {
            let Ok(ready) = timeout(patience, &mut batch.work).await else { return Ok(None) };
            if let Some(Batch { count, after, .. }) = self.marking.pop_front() {
                let (work, ready) = (Arc::clone(&self.work), flat(ready)?);
                let work = tokio::spawn(in_background(async move { work.send(ready).await }));
                self.sending = Some(Batch { work, count, after });
            }
        }
        Ok(None)
    }

    /// Publishes what is marked or about to be, and leaves the line empty. Returns what is done with up to the first
    /// batch that has failed: what is behind that counts as delivered when it is looked at again.
    pub(super) async fn finish(&mut self) -> Vec<(Counts, Place)> {
        let mut done = Vec::new();
        while self.len() > 0 {
            match self.moved(Duration::MAX).await {
                Ok(moved) => done.extend(moved.filter(|_| !self.failed)),
                Err(why) => {
                    tracing::warn!(redrive_id = self.work.redrive_id, why, "can't deliver; it is done after a moment");
                }
            }
        }
        self.failed = false;
        done
    }
}

/// What a task has come to.
fn flat<T>(ended: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
    ended.map_err(|error| error.to_string())?
}

impl Work {
    async fn mark(&self, ids: Vec<String>) -> Result<Ready, Failure> {
        let words = |error: StoreError| error.to_string();
        let (mut counts, mut letters) = (Counts::default(), Vec::new());
        for found in self.inner.letters.documents().get_many(ids).await.map_err(words)? {
            match found {
                // A crash came after it was delivered and before that was counted.
                Some(found) if view::is_in_redrive(&found.document, &self.redrive_id) => counts.delivered += 1,
                Some(found) if act::obstacle(&found.document).is_none() => letters.push(found),
                _ => counts.skipped += 1,
            }
        }
        let marked = self.inner.mark(letters, self.by(), Some(&self.redrive_id), SystemTime::now()).await;
        Ok(Ready { marked, counts })
    }

    async fn send(&self, Ready { marked, mut counts }: Ready) -> Result<Counts, Failure> {
        for outcome in self.inner.send(marked, SystemTime::now()).await {
            match outcome {
                Ok(()) => counts.delivered += 1,
                Err(Refusal::Changed) => counts.skipped += 1,
                Err(Refusal::Failed(why)) => return Err(why),
            }
        }
        Ok(counts)
    }

    fn by(&self) -> By<'_> {
        By { actor: &self.actor, reason: &self.reason }
    }
}
