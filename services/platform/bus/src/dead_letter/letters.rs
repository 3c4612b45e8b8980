//! What consumers do with dead letters.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use runmesh_events::{EventType, GroupName};
use runmesh_store::{DocumentStore, Documents, PageQuery, StoreError, Versioned};
use tokio::sync::Notify;

use super::{DeadLetter, LetterState, Pending};
use crate::{Delivery, Policies, RetryPolicy};

/// The dead letters of a store, and the policies for them. Clones share everything.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    documents: Documents<DeadLetter>,
    policies: Policies,
    kept: Arc<Notify>,
}

/// What a redrive is to its letter.
#[derive(Debug)]
pub(crate) enum Redrive {
    /// It is the one that the letter waits for.
    Awaited(Box<Versioned<DeadLetter>>),
    /// The letter has moved on: it was handled, or given up, or delivered again since.
    Stale,
    /// There is no such letter.
    Unknown,
}

impl DeadLetters {
    /// The dead letters of a store.
    ///
    /// # Errors
    /// When their collections can't be made.
    pub async fn open(documents: Arc<dyn DocumentStore>) -> Result<Self, StoreError> {
        let policies = Policies::open(Arc::clone(&documents)).await?;
        Ok(Self { documents: Documents::open(documents).await?, policies, kept: Arc::default() })
    }

    /// The letters.
    pub fn documents(&self) -> &Documents<DeadLetter> {
        &self.documents
    }

    /// The policies.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Waits until this process has changed a letter such that something has to be done about it, or for so long.
    pub async fn changed(&self, patience: Duration) {
        // The time that is over is as good an answer.
        let _ = tokio::time::timeout(patience, self.kept.notified()).await;
    }

    /// Tells that a letter was changed such that something has to be done about it.
    pub fn has_changed(&self) {
        self.kept.notify_one();
    }

    pub(crate) async fn policy(&self, group: GroupName, event_type: EventType) -> Result<RetryPolicy, StoreError> {
        Ok(self.policies.current().await?.policy(event_type, group.as_str()))
    }

    /// Keeps a failure, with what the policy in force does about it.
    pub(crate) async fn bury(
        &self,
        group: GroupName,
        event_type: EventType,
        failure: DeadLetter,
    ) -> Result<DeadLetter, StoreError> {
        let policy = self.policy(group, event_type).await?;
        let kept = self.keep(&failure, |letter| letter.decided(&policy)).await?;
        metrics::counter!("dead_letters_total", "group" => group.as_str(), "topic" => kept.topic.clone(),
            "severity" => failure.kind().as_str(), "state" => kept.state.as_str())
        .increment(1);
        Ok(kept)
    }

    /// Keeps a delivery that was not tried, since an earlier one of its aggregate is not over.
    pub(crate) async fn keep_behind(&self, first: &DeadLetter, delivery: DeadLetter) -> Result<(), StoreError> {
        let behind = |letter: DeadLetter| DeadLetter {
            state: LetterState::Scheduled,
            cause: format!("an earlier event of {} is not over: letter {}", letter.aggregate_id, first.id),
            keeps_order: true,
            waits_behind: Some(first.id.clone()),
            ..letter
        };
        let kept = self.keep(&delivery, behind).await?;
        // The first one may have come to its end before this one could be seen behind it.
        let is_over = self.documents.get(&first.id).await?.is_none_or(|first| first.document.state.is_over());
        if is_over {
            let now = SystemTime::now();
            let next = |letter: Option<&DeadLetter>| {
                let letter = letter.filter(|letter| letter.waits_behind.is_some())?.clone();
                Some(DeadLetter { waits_behind: None, retry_at: Some(now), ..letter })
            };
            self.documents.change(&kept.id, next).await?;
        }
        Ok(())
    }

    async fn keep(
        &self,
        newer: &DeadLetter,
        decide: impl Fn(DeadLetter) -> DeadLetter,
    ) -> Result<DeadLetter, StoreError> {
        let failed = |known: Option<&DeadLetter>| {
            let letter = match known {
                Some(known) => known.clone().failed_again(newer.clone()),
                None => newer.clone(),
            };
            Some(decide(letter))
        };
        let kept = self.documents.change(&newer.id, failed).await?;
        self.has_changed();
        Ok(kept.unwrap_or_else(|| newer.clone()))
    }

    /// What a redrive is to its letter.
    pub(crate) async fn redrive(&self, group: GroupName, delivery: &Delivery) -> Result<Redrive, StoreError> {
        let Some(found) = self.documents.get(&DeadLetter::id_of_delivery(group, delivery)).await? else {
            return Ok(Redrive::Unknown);
        };
        let letter = &found.document;
        let attempt = DeadLetter::redrive_attempt(delivery).unwrap_or_default();
        let next = letter.retries.saturating_add(2);
        let awaited = match letter.state {
            LetterState::Retrying => attempt.saturating_add(1) == next,
            // It is on its way before the letter says so.
            LetterState::Scheduled | LetterState::Parked => attempt == next,
            LetterState::Resolved | LetterState::Discarded => false,
        };
        Ok(if awaited { Redrive::Awaited(Box::new(found)) } else { Redrive::Stale })
    }

    /// Keeps that redrives were handled, where their letters are as they were seen. Whether that is so, for each in order.
    pub(crate) async fn resolve_seen(&self, handled: &[(&Delivery, &Versioned<DeadLetter>)]) -> Vec<bool> {
        let now = SystemTime::now();
        let (mut resolved, mut written) = (Vec::new(), Vec::new());
        for (delivery, seen) in handled {
            let letter = Self::resolved(&seen.document, delivery, now);
            resolved.push(letter.is_some());
            written.extend(letter.map(|letter| (letter, seen.revision)));
        }
        let results = self.documents.update_many(&written).await;
        if written.iter().any(|(letter, _)| letter.pending == Some(Pending::Release)) {
            self.has_changed();
        }
        let mut results = results.iter();
        resolved.into_iter().map(|is_written| is_written && results.next().is_some_and(Result::is_ok)).collect()
    }

    /// The letter of a redrive that was handled. `None`: it is over already.
    fn resolved(letter: &DeadLetter, delivery: &Delivery, now: SystemTime) -> Option<DeadLetter> {
        let retries = DeadLetter::redrive_attempt(delivery).unwrap_or_default().saturating_sub(1);
        let letter = Some(letter).filter(|letter| !letter.state.is_over())?.clone();
        let letter = DeadLetter { retries: letter.retries.max(retries), ..letter };
        Some(letter.moved(LetterState::Resolved, format!("handled after {retries} retries"), now))
    }

    /// Keeps that a redrive was handled.
    pub(crate) async fn resolve(&self, group: GroupName, delivery: &Delivery) -> Result<(), StoreError> {
        let now = SystemTime::now();
        let resolved = |letter: Option<&DeadLetter>| Self::resolved(letter?, delivery, now);
        let id = DeadLetter::id_of_delivery(group, delivery);
        let changed = self.documents.change(&id, resolved).await?;
        if changed.is_some_and(|letter| letter.pending == Some(Pending::Release)) {
            self.has_changed();
        }
        Ok(())
    }

    /// The earliest letter of an aggregate in a group that is not over, where order is kept.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn first_open(&self, group: &str, aggregate_id: &str) -> Result<Option<DeadLetter>, StoreError> {
        self.first(DeadLetter::BY_ORDER, &DeadLetter::order_key(group, aggregate_id), false).await
    }

    /// The first letter of those that have this value in the first field of an index, or the last one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn first(
        &self,
        index: &'static str,
        value: &str,
        descending: bool,
    ) -> Result<Option<DeadLetter>, StoreError> {
        let query = PageQuery { index, equal: vec![value.into()], descending, limit: 1, ..PageQuery::default() };
        let page = self.documents.page(query).await?;
        Ok(page.documents.into_iter().next().map(|found| found.document))
    }
}
