//! Delivering letters again, each to its group alone.

use std::time::SystemTime;

use futures::future::try_join_all;
use runmesh_bus::{DeadLetter, LetterState, Pending};
use runmesh_store::{StoreError, Versioned};

use crate::{
    act,
    service::Inner,
    tell::{self, By},
};

/// Why a letter was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has changed since it was looked at.
    Changed,
    /// The store or the bus failed, in words. What was begun is finished later.
    Failed(String),
}

impl From<&StoreError> for Refusal {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::RevisionMismatch { .. } => Self::Changed,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// How often a letter is looked at anew that was changed while it was about to be delivered, such as by the worker that
/// tells of its failure.
const TRIES: usize = 5;

/// Letters that are marked as delivered again, and told of, which they have to be now. Should that not come about, such as after
/// a crash, the worker does it after a moment.
#[derive(Debug)]
pub(crate) struct Marked {
    /// The letters, each with its place among the results.
    letters: Vec<(usize, DeadLetter)>,
    /// How the marking went, for each that was to be delivered, in order.
    results: Vec<Result<(), Refusal>>,
}

impl Inner {
    /// Delivers letters again that were just read. A result for each, in order.
    pub(crate) async fn deliver(
        &self,
        letters: Vec<Versioned<DeadLetter>>,
        by: By<'_>,
        redrive_id: Option<&str>,
        now: SystemTime,
    ) -> Vec<Result<(), Refusal>> {
        let marked = self.mark(letters, by, redrive_id, now).await;
        self.send(marked, now).await
    }

    /// Marks letters that were just read as delivered again, and tells of it: before they are, since a group may be so fast that
    /// nobody would know any more that it has to be told.
    pub(crate) async fn mark(
        &self,
        letters: Vec<Versioned<DeadLetter>>,
        by: By<'_>,
        redrive_id: Option<&str>,
        now: SystemTime,
    ) -> Marked {
        let mut marked = Marked { letters: Vec::new(), results: vec![Err(Refusal::Changed); letters.len()] };
        let mut left: Vec<_> = letters.into_iter().enumerate().collect();
        for _ in 0..TRIES {
            let (places, tried): (Vec<usize>, Vec<_>) = left.into_iter().unzip();
            if tried.is_empty() {
                break;
            }
            left = Vec::new();
            for (place, (letter, result)) in places.into_iter().zip(self.mark_once(tried, by, redrive_id, now).await) {
                if result == Err(Refusal::Changed)
                    && let Ok(Some(found)) = self.letters.documents().get(&letter.id).await
                    && act::obstacle(&found.document).is_none()
                {
                    let document = DeadLetter { edit: letter.edit, ..found.document };
                    left.push((place, Versioned { document, revision: found.revision }));
                } else if result.is_ok() {
                    marked.letters.push((place, letter));
                }
                marked.results[place] = result;
            }
        }
        let sent: Vec<&DeadLetter> = marked.letters.iter().map(|(_, letter)| letter).collect();
        if let Err(error) = tell::retries(&*self.events, &sent, by).await {
            // It is done again after a moment, with all that follows, since the letters are marked.
            for (place, _) in marked.letters.drain(..) {
                marked.results[place] = Err((&error).into());
            }
        }
        marked
    }

    async fn mark_once(
        &self,
        letters: Vec<Versioned<DeadLetter>>,
        by: By<'_>,
        redrive_id: Option<&str>,
        now: SystemTime,
    ) -> Vec<(DeadLetter, Result<(), Refusal>)> {
        if let Err(error) = self.tell_what_was_not(letters.iter().map(|found| &found.document)).await {
            return letters.into_iter().map(|found| (found.document, Err((&error).into()))).collect();
        }
        let marked: Vec<_> = letters
            .into_iter()
            .map(|found| {
                let sent = found.document.sent(by.reason, redrive_id, now);
                (DeadLetter { by: by.actor.to_owned(), ..sent }, found.revision)
            })
            .collect();
        let written = self.letters.documents().update_many(&marked).await;
        let results = written.into_iter().map(|written| written.map(drop).map_err(|error| (&error).into()));
        marked.into_iter().map(|(letter, _)| letter).zip(results).collect()
    }

    /// Publishes the records of letters that are marked. A result for each that was to be marked, in order.
    pub(crate) async fn send(&self, marked: Marked, now: SystemTime) -> Vec<Result<(), Refusal>> {
        let Marked { letters, mut results } = marked;
        let sent: Vec<&DeadLetter> = letters.iter().map(|(_, letter)| letter).collect();
        // What fails here is done again after a moment, since the letters are marked.
        if let Err(error) = self.publish(&sent, now).await {
            for (place, _) in &letters {
                results[*place] = Err((&error).into());
            }
        }
        results
    }

    /// Tells of failures that were not told yet, before something else becomes of the letters.
    pub(crate) async fn tell_what_was_not(&self, letters: impl Iterator<Item = &DeadLetter>) -> Result<(), StoreError> {
        let untold = letters.filter(|letter| letter.pending == Some(Pending::Tell));
        try_join_all(untold.map(|letter| tell::failure(&*self.events, letter))).await.map(drop)
    }

    /// Publishes the records of letters that are marked. What can't be published at all is parked.
    pub(crate) async fn publish(&self, letters: &[&DeadLetter], now: SystemTime) -> Result<(), StoreError> {
        let records = letters.iter().map(|letter| letter.redelivery(letter.retries)).collect();
        let mut failed = None;
        for (letter, result) in letters.iter().zip(self.bus.publish(records).await) {
            let next = match result {
                Ok(_) if letter.is_unpublished() => (LetterState::Resolved, "published".to_owned()),
                Ok(_) => {
                    self.count_redelivery(letter);
                    continue;
                }
                Err(error) if error.is_transient() => {
                    failed = Some(StoreError::Unavailable(error.to_string()));
                    continue;
                }
                Err(error) => (LetterState::Parked, format!("it can't be published: {error}")),
            };
            let retries = letter.retries;
            let moved = |letter: Option<&DeadLetter>| {
                let letter = letter.filter(|letter| letter.retries == retries && !letter.state.is_over())?.clone();
                Some(letter.moved(next.0, next.1.clone(), now))
            };
            self.letters.documents().change(&letter.id, moved).await?;
        }
        failed.map_or(Ok(()), Err)
    }

    fn count_redelivery(&self, letter: &DeadLetter) {
        metrics::counter!("dead_letter_retries_total", "group" => letter.group.clone(), "topic" => letter.topic.clone())
            .increment(1);
    }
}
