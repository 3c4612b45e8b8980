//! What has to be done about letters by themselves: telling of failures, deliveries that are due, letters that waited.

use std::time::{Duration, SystemTime};

use runmesh_bus::{DeadLetter, LetterState, Pending};
use runmesh_store::{Claim, StoreError, Versioned};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    service::Inner,
    tell::{self, By},
};

/// For how long a letter that is seen to is nobody else's.
const LEASE: Duration = Duration::from_secs(10);

/// How many letters are seen to together.
const BATCH: usize = 256;

/// How often it is looked for what is due.
const LOOK: Duration = Duration::from_millis(500);

/// The wait after the store has failed.
const BACKOFF: Duration = Duration::from_secs(1);

impl Inner {
    /// Sees to letters until `shutdown`.
    pub(crate) async fn see_to_letters(&self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            match self.turn(SystemTime::now()).await {
                Ok(0) => {
                    shutdown.run_until_cancelled(self.letters.changed(LOOK)).await;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't see to dead letters; trying again");
                    shutdown.run_until_cancelled(sleep(BACKOFF)).await;
                }
            }
        }
    }

    /// Sees to some of what is due at `now`. Returns how many letters that were.
    pub(crate) async fn turn(&self, now: SystemTime) -> Result<usize, StoreError> {
        let claims = self.letters.documents().claim_due(now, LEASE, BATCH).await?;
        let count = claims.len();
        let mut due = Vec::new();
        for claim in claims {
            match claim.document.pending {
                Some(Pending::Tell) => self.tell(claim).await?,
                Some(Pending::Release) => self.release(claim, now).await?,
                Some(Pending::Send) => self.send_again(claim, now).await?,
                None if claim.document.state == LetterState::Retrying => self.send_again(claim, now).await?,
                None => due.push(claim),
            }
        }
        self.deliver_due(due, now).await?;
        Ok(count)
    }

    /// Tells of the failure of a letter.
    async fn tell(&self, claim: Claim<DeadLetter>) -> Result<(), StoreError> {
        let letter = claim.document;
        tell::failure(&*self.events, &letter).await?;
        let pending = Some(Pending::Release).filter(|_| letter.state.is_over() && letter.keeps_order);
        self.write(DeadLetter { pending, ..letter }, claim.token).await
    }

    /// Has what waits behind a letter that is over be delivered.
    async fn release(&self, claim: Claim<DeadLetter>, now: SystemTime) -> Result<(), StoreError> {
        let letter = claim.document;
        if let Some(first) = self.letters.first_open(&letter.group, &letter.aggregate_id).await? {
            let next = |letter: Option<&DeadLetter>| {
                let letter = letter.filter(|letter| letter.waits_behind.is_some())?.clone();
                let cause = "what it waited behind is over".to_owned();
                Some(DeadLetter { waits_behind: None, retry_at: Some(now), cause, ..letter })
            };
            self.letters.documents().change(&first.id, next).await?;
        }
        self.write(DeadLetter { pending: None, ..letter }, claim.token).await
    }

    /// A delivery that may not have come about, or of which nothing was heard, comes about now. Its group handles one that
    /// comes twice once.
    async fn send_again(&self, claim: Claim<DeadLetter>, now: SystemTime) -> Result<(), StoreError> {
        let letter = claim.document;
        let by = By { actor: &letter.by, reason: &letter.cause };
        tell::retries(&*self.events, &[&letter], by).await?;
        self.publish(&[&letter], now).await?;
        // The group may have been faster; then the letter has changed, and is left as it is.
        self.write(DeadLetter { pending: None, changed_at: now, ..letter }, claim.token).await
    }

    async fn deliver_due(&self, due: Vec<Claim<DeadLetter>>, now: SystemTime) -> Result<(), StoreError> {
        let mut letters = Vec::new();
        for Claim { document, token } in due {
            if document.state != LetterState::Scheduled {
                continue;
            }
            if document.keeps_order
                && let Some(first) = self.letters.first_open(&document.group, &document.aggregate_id).await?
                && first.id != document.id
            {
                self.write(DeadLetter { waits_behind: Some(first.id), retry_at: None, ..document }, token).await?;
                continue;
            }
            letters.push(Versioned { document, revision: token });
        }
        if !letters.is_empty() {
            // What is refused has changed, or is due again.
            self.deliver(letters, By { actor: "", reason: "its policy" }, None, now).await;
        }
        Ok(())
    }

    /// Writes a letter that was claimed. One that has changed meanwhile is left to whoever changed it.
    async fn write(&self, letter: DeadLetter, token: u64) -> Result<(), StoreError> {
        match self.letters.documents().update(&letter, token).await {
            Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
