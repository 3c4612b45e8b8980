//! The letters of a redrive that are on their way to the bus: while some are told and published, the next ones are marked,
//! and those behind them are read. Each batch is told and published after the one before it.

use std::time::SystemTime;

use runmesh_bus::DeadLetter;
use runmesh_store::{StoreError, Versioned};

use super::document::{Progress, RedriveDocument};
use crate::{
    act,
    deliver::{Marked, Refusal},
    service::Inner,
    tell::By,
    view,
};

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

/// Letters that are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// Where the next ones begin.
    pub(super) after: Place,
    pub(super) delivered: u64,
    pub(super) skipped: u64,
}

/// Letters that are delivered together.
#[derive(Debug)]
struct Batch<T> {
    letters: T,
    /// How many they are, with those that are left alone.
    count: usize,
    delivered: u64,
    skipped: u64,
    /// Where the next ones begin.
    after: Place,
}

impl<T> Batch<T> {
    fn with<U>(self, letters: U) -> Batch<U> {
        let Self { count, delivered, skipped, after, .. } = self;
        Batch { letters, count, delivered, skipped, after }
    }
}

/// What a step of the line has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These letters are done with. `None`: it was only the first step of some.
    Done(Option<Done>),
    /// For the moment that is not possible, or not known. What is in the line has left it; the letters after those that are
    /// done are looked at again.
    Failed(String),
}

/// The line of one redrive.
pub(super) struct Line<'a> {
    inner: &'a Inner,
    redrive_id: String,
    actor: String,
    reason: String,
    read: Option<Batch<Vec<Versioned<DeadLetter>>>>,
    marked: Option<Batch<Marked>>,
}

impl<'a> Line<'a> {
    pub(super) fn new(inner: &'a Inner, redrive: &RedriveDocument) -> Self {
        let RedriveDocument { id, actor, reason, .. } = redrive;
        let (redrive_id, actor, reason) = (id.clone(), actor.clone(), reason.clone());
        Self { inner, redrive_id, actor, reason, read: None, marked: None }
    }

    /// How many letters are in it.
    pub(super) fn len(&self) -> u64 {
        self.unmarked() + self.marked.as_ref().map_or(0, |batch| batch.count as u64)
    }

    /// How many of them are not marked yet.
    pub(super) fn unmarked(&self) -> u64 {
        self.read.as_ref().map_or(0, |batch| batch.count as u64)
    }

    /// All in the line moves on by one step, and these letters come into it, behind which others begin at `after`.
    pub(super) async fn step(&mut self, ids: Vec<String>, after: Place) -> Result<Step, StoreError> {
        let (read, marked) = (self.read.take(), self.marked.take());
        let (read, marked, sent) = tokio::join!(self.read(ids, after), self.mark(read), self.send(marked));
        self.marked = marked;
        let refused = self.marked.as_ref().and_then(|batch| batch.letters.failure());
        let failed = match (sent, refused) {
            (Ok(done), None) => {
                self.read = read?;
                return Ok(Step::Done(done));
            }
            (Ok(_), Some(why)) => why.to_owned(),
            (Err(why), _) => why,
        };
        // Those that are marked count as delivered when they are looked at again.
        self.finish().await.ok();
        Ok(Step::Failed(failed))
    }

    /// Tells and publishes what is marked, and lets go of what is only read. Returns what is done with.
    ///
    /// # Errors
    /// In words, why that is not possible for the moment.
    pub(super) async fn finish(&mut self) -> Result<Option<Done>, String> {
        self.read = None;
        let marked = self.marked.take();
        self.send(marked).await
    }

    async fn read(
        &self,
        ids: Vec<String>,
        after: Place,
    ) -> Result<Option<Batch<Vec<Versioned<DeadLetter>>>>, StoreError> {
        if ids.is_empty() {
            return Ok(None);
        }
        let mut batch = Batch { letters: Vec::new(), count: ids.len(), delivered: 0, skipped: 0, after };
        for found in self.inner.letters.documents().get_many(ids).await? {
            match found {
                // A crash came after it was delivered and before that was counted.
                Some(found) if view::is_in_redrive(&found.document, &self.redrive_id) => batch.delivered += 1,
                Some(found) if act::obstacle(&found.document).is_none() => batch.letters.push(found),
                _ => batch.skipped += 1,
            }
        }
        Ok(Some(batch))
    }

    async fn mark(&self, batch: Option<Batch<Vec<Versioned<DeadLetter>>>>) -> Option<Batch<Marked>> {
        let mut batch = batch?;
        let letters = std::mem::take(&mut batch.letters);
        let marked = self.inner.mark(letters, self.by(), Some(&self.redrive_id), SystemTime::now()).await;
        Some(batch.with(marked))
    }

    async fn send(&self, batch: Option<Batch<Marked>>) -> Result<Option<Done>, String> {
        let Some(batch) = batch else { return Ok(None) };
        let Batch { letters, mut delivered, mut skipped, after, .. } = batch;
        for outcome in self.inner.send(letters, self.by(), SystemTime::now()).await {
            match outcome {
                Ok(()) => delivered += 1,
                Err(Refusal::Changed) => skipped += 1,
                Err(Refusal::Failed(why)) => return Err(why),
            }
        }
        Ok(Some(Done { after, delivered, skipped }))
    }

    fn by(&self) -> By<'_> {
        By { actor: &self.actor, reason: &self.reason }
    }
}
