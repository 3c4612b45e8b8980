//! The durable timer of each saga's start: a runner that was told to run an execution has to give a sign of life in time.
//!
//! The timer is the due time of the saga's document, so that it costs no write of its own: it is set when the saga begins,
//! and what is found when it fires decides whether it is set again. Only where the slot was given much later is it set with
//! the command to run.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use runmesh_events::{AggregateId, Event, from_timestamp};
use runmesh_store::{Claim, Expected, StoreError};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    document::SagaDocument,
    handlers::{TRIES, recorded_by_timer},
    machine::{SagaLog, saga_id},
    service::{Loaded, SagaService},
    view::SagaView,
};

/// How often timers are looked for.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a timer that fires belongs to one instance.
const LEASE: Duration = Duration::from_secs(30);

/// How many timers are taken at a time.
const BATCH: usize = 100;

impl SagaService {
    /// Fires timers as they are due, until `shutdown`. Of several instances each timer is one's.
    pub async fn run_timers(&self, shutdown: CancellationToken) {
        // What was not done while no mesh ran is no one's fault: everyone has the whole time again.
        let since = SystemTime::now();
        while shutdown.run_until_cancelled(sleep(PAUSE)).await.is_some() {
            loop {
                let claims = match self.documents().claim_due(SystemTime::now(), LEASE, BATCH).await {
                    Ok(claims) => claims,
                    Err(error) => {
                        tracing::warn!(%error, "can't look for timers; trying again");
                        break;
                    }
                };
                let is_last = claims.len() < BATCH;
                for claim in claims {
                    let execution_id = claim.document.saga.execution_id.clone();
                    if let Err(error) = self.fire(claim, since).await {
                        tracing::warn!(execution_id, %error, "a timer can't be seen to; trying again");
                    }
                }
                if is_last || shutdown.is_cancelled() {
                    break;
                }
            }
        }
    }

    /// Looks at a saga whose timer fires. `since`: when this process began to look at timers.
    async fn fire(&self, claim: Claim<SagaDocument>, since: SystemTime) -> Result<(), StoreError> {
        let aggregate = AggregateId::from(claim.document.saga.execution_id.as_str());
        for _ in 0..TRIES {
            let loaded = self.load(&aggregate).await?;
            let (log, view) = (loaded.log(), loaded.view());
            if !view.exists() {
                return as_claimed(self.documents().delete_if(&claim.document.saga.saga_id, claim.token).await);
            }
            let look_at = match due(log.awaits_start_since(), since, self.start_timeout()) {
                Some(due) if due <= SystemTime::now() => {
                    let decision = log.start_timed_out();
                    let Some(event) = decision.and_then(|decision| recorded_by_timer(&loaded, decision)) else {
                        return Ok(());
                    };
                    match self.store().append(&aggregate, Expected::Sequence(loaded.head), vec![event]).await {
                        Ok(_) => {
                            tracing::warn!(%aggregate, attempt = log.attempt(), "no runner began to run it in time");
                            // What follows from it comes by the bus. The claim's own end looks whether it did.
                            return Ok(());
                        }
                        Err(StoreError::Conflict { .. }) => continue,
                        Err(error) => return Err(error),
                    }
                }
                due => due.filter(|_| !view.ended()),
            };
            return as_claimed(self.documents().update(&SagaDocument::of(&view, look_at), claim.token).await);
        }
        Ok(())
    }

    /// Keeps what was appended: the end of a saga, and the timer of a start that its beginning did not set.
    pub(crate) async fn keep(&self, loaded: Loaded, appended: Vec<Arc<Event>>) -> Result<(), StoreError> {
        let events: Vec<Arc<Event>> = loaded.events.into_iter().chain(appended).collect();
        self.keep_now(&Loaded { events, head: loaded.head }, false).await
    }

    /// Brings the document up to the log, whatever was left undone.
    pub(crate) async fn repair(&self, loaded: &Loaded) -> Result<(), StoreError> {
        self.keep_now(loaded, true).await
    }

    async fn keep_now(&self, loaded: &Loaded, is_repair: bool) -> Result<(), StoreError> {
        let (log, view) = (loaded.log(), loaded.view());
        let look_at = self.timer_of_late_start(&log, &view);
        if !is_repair && look_at.is_none() && !view.ended() {
            return Ok(());
        }
        let id = saga_id(&view.saga().execution_id);
        loop {
            let Some(found) = self.documents().get(&id).await? else {
                // Unless it was deleted with the execution, which is done once the log is closed.
                return if is_repair && !view.ended() { self.keep_begun(&view).await } else { Ok(()) };
            };
            // An execution that was deleted may have been made again with the same id.
            let is_same = found.document.saga.created_at == view.saga().created_at;
            let is_kept = found.document.saga.ended_at.is_some() || (!view.ended() && look_at.is_none());
            if is_same && is_kept {
                return Ok(());
            }
            match self.documents().update(&SagaDocument::of(&view, look_at), found.revision).await {
                Err(StoreError::RevisionMismatch { .. }) => {}
                other => return other.map(drop),
            }
        }
    }

    /// When the saga is to be looked at, if a start is under way that the timer set at its beginning is not sure to see: it
    /// may have fired, or be about to.
    fn timer_of_late_start(&self, log: &SagaLog, view: &SagaView) -> Option<SystemTime> {
        let asked = log.awaits_start_since().as_ref().and_then(from_timestamp)?;
        let begun = view.saga().created_at.as_ref().and_then(from_timestamp)?;
        let waited = asked.duration_since(begun).unwrap_or_default();
        (log.attempt() > 1 || waited >= self.start_timeout() / 2).then(|| asked + self.start_timeout())
    }
}

/// When a start that was asked for at this time is late.
fn due(asked: Option<Timestamp>, since: SystemTime, timeout: Duration) -> Option<SystemTime> {
    asked.as_ref().and_then(from_timestamp).map(|asked| asked.max(since) + timeout)
}

/// A write by the holder of a claim. Somebody else's write since decides anew.
fn as_claimed<T>(written: Result<T, StoreError>) -> Result<(), StoreError> {
    match written {
        Ok(_) | Err(StoreError::RevisionMismatch { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
