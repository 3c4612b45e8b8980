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

impl Inner {
    /// Delivers letters again that were just read. A result for each, in order.
    pub(crate) async fn deliver(
        &self,
        letters: Vec<Versioned<DeadLetter>>,
        by: By<'_>,
        redrive_id: Option<&str>,
        now: SystemTime,
    ) -> Vec<Result<(), Refusal>> {
        let mut results = vec![Err(Refusal::Changed); letters.len()];
        let mut left: Vec<_> = letters.into_iter().enumerate().collect();
        for _ in 0..TRIES {
            let (places, tried): (Vec<usize>, Vec<_>) = left.into_iter().unzip();
            if tried.is_empty() {
                break;
            }
            let edits: Vec<_> =
                tried.iter().map(|found| (found.document.id.clone(), found.document.edit.clone())).collect();
            let outcomes = self.deliver_once(tried, by, redrive_id, now).await;
            left = Vec::new();
            for ((place, (id, edit)), outcome) in places.into_iter().zip(edits).zip(outcomes) {
                if outcome == Err(Refusal::Changed)
                    && let Ok(Some(found)) = self.letters.documents().get(&id).await
                    && act::obstacle(&found.document).is_none()
                {
                    let document = DeadLetter { edit, ..found.document };
                    left.push((place, Versioned { document, revision: found.revision }));
                }
                results[place] = outcome;
            }
        }
        results
    }

    async fn deliver_once(
        &self,
        letters: Vec<Versioned<DeadLetter>>,
        by: By<'_>,
        redrive_id: Option<&str>,
        now: SystemTime,
    ) -> Vec<Result<(), Refusal>> {
        if let Err(error) = self.tell_what_was_not(letters.iter().map(|found| &found.document)).await {
            return letters.iter().map(|_| Err((&error).into())).collect();
        }
        let marked: Vec<_> = letters
            .into_iter()
            .map(|found| {
                let sent = found.document.sent(by.reason, redrive_id, now);
                (DeadLetter { by: by.actor.to_owned(), ..sent }, found.revision)
            })
            .collect();
        let written = self.letters.documents().update_many(&marked).await;
        let sent: Vec<&DeadLetter> =
            marked.iter().zip(&written).filter(|(_, written)| written.is_ok()).map(|((letter, _), _)| letter).collect();
        // What fails from here on is done again after a moment, since the letters are marked.
        let (told, published) = tokio::join!(tell::retries(&*self.events, &sent, by), self.publish(&sent, now));
        let published = told.and(published);
        written
            .iter()
            .map(|written| match (written, &published) {
                (Err(error), _) | (Ok(_), Err(error)) => Err(error.into()),
                (Ok(_), Ok(())) => Ok(()),
            })
            .collect()
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
