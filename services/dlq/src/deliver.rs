//! Delivering letters again, each to its group alone.

use std::time::SystemTime;

use runmesh_bus::{DeadLetter, LetterState};
use runmesh_store::{StoreError, Versioned};

use crate::{
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

impl Inner {
    /// Delivers letters again that were just read. A result for each, in order.
    pub(crate) async fn deliver(
        &self,
        letters: Vec<Versioned<DeadLetter>>,
        by: By<'_>,
        redrive_id: Option<&str>,
        now: SystemTime,
    ) -> Vec<Result<(), Refusal>> {
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
        let published = match tell::retries(&*self.events, &sent, by).await {
            Ok(()) => self.publish(&sent, now).await,
            Err(error) => Err(error),
        };
        written
            .iter()
            .map(|written| match (written, &published) {
                (Err(error), _) | (Ok(_), Err(error)) => Err(error.into()),
                (Ok(_), Ok(())) => Ok(()),
            })
            .collect()
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
