//! Sending a batch: again what fails, and what comes of the rest.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Carried, RunError, Step};
use crate::{document::Failure, session::Phase, source::Item, target::SendError};

/// The first wait before something is sent again, and the greatest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What can't be sent, by its place in the batch, and how often it was tried.
type Failed = BTreeMap<usize, (SendError, u32)>;

impl Carried<'_> {
    /// Sends a batch. What does not concern the target is not sent.
    pub(super) async fn deliver(
        &mut self,
        batch: Vec<(Item, bool)>,
        shutdown: &CancellationToken,
    ) -> Result<Step, RunError> {
        let Some(failed) = self.send(&batch, shutdown).await? else { return Ok(Step::Leave) };
        let stop = failed.keys().next().copied().filter(|_| !self.plan.skip_errors);
        let done = stop.unwrap_or(batch.len());
        self.note(&batch[..done], &failed);
        if let Some(place) = checkpoint(&batch, done) {
            self.replay.progress.place = place;
        }
        if done == batch.len() && self.queue.is_empty() {
            self.page_is_done();
        }
        match stop.and_then(|index| Some((&batch[index].0, failed.get(&index)?))) {
            None => Ok(Step::On),
            Some((item, (error, tries))) => {
                let failure = failure(item, error, *tries);
                let note = match failure.event_id.as_str() {
                    "" => format!("the line before byte {} is no event: {error}", item.place),
                    id => format!("event {id} can't be sent: {error}"),
                };
                self.replay.add_failure(failure);
                Ok(Step::Over(Phase::Failed, note))
            }
        }
    }

    /// Sends what concerns the target, and again what fails for the moment. `None`: this process has to leave it.
    async fn send(&mut self, batch: &[(Item, bool)], shutdown: &CancellationToken) -> Result<Option<Failed>, RunError> {
        let (mut failed, mut left) = (Failed::new(), Vec::new());
        for (index, (item, _)) in batch.iter().enumerate().filter(|(_, (_, wanted))| *wanted) {
            match &item.event {
                Ok(event) => left.push((index, event.clone())),
                Err(words) => {
                    failed.insert(index, (SendError::lasting(words), 0));
                }
            }
        }
        let mut wait = BACKOFF.0;
        for attempt in 0..=self.plan.retries {
            if left.is_empty() {
                break;
            }
            if attempt > 0 {
                // The lease has to last, and an operator may have had enough.
                if !self.tell(|_| {}).await? {
                    return Ok(None);
                }
                if shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
                    self.tell(|replay| replay.due_at = Some(SystemTime::now())).await?;
                    return Ok(None);
                }
                wait = (wait * 2).min(BACKOFF.1);
                self.replay.progress.retries += left.len() as u64;
            }
            let events: Vec<_> = left.iter().map(|(_, event)| event.clone()).collect();
            let sending = self.target.send(&events);
            let results = self.inner.while_renewing(&self.replay.id, &self.carrier, sending).await;
            let mut again = Vec::new();
            for ((index, event), result) in left.into_iter().zip(results) {
                match result {
                    Ok(()) => {
                        failed.remove(&index);
                    }
                    Err(error) => {
                        if error.transient {
                            again.push((index, event));
                        }
                        failed.insert(index, (error, attempt + 1));
                    }
                }
            }
            left = again;
        }
        Ok(Some(failed))
    }

    /// Counts what was dealt with.
    fn note(&mut self, done: &[(Item, bool)], failed: &Failed) {
        let (mut sent, mut skipped, mut lost) = (0_u64, 0_u64, 0_u64);
        for (index, (item, wanted)) in done.iter().enumerate() {
            match (failed.get(&index), wanted) {
                (Some((error, tries)), _) => {
                    lost += 1;
                    tracing::warn!(replay_id = self.replay.id, place = item.place, %error, "can't be sent; skipped");
                    self.replay.add_failure(failure(item, error, *tries));
                }
                (None, false) => skipped += 1,
                (None, true) => {
                    sent += 1;
                    self.replay.progress.event_time = item.time().or(self.replay.progress.event_time);
                }
            }
        }
        let progress = &mut self.replay.progress;
        progress.scanned += done.iter().map(|(item, _)| item.scanned).sum::<u64>();
        progress.matched += done.len() as u64;
        progress.sent += sent;
        progress.skipped += skipped;
        progress.failed += lost;
        self.unkept += done.len() as u64;
        self.pace.sent(usize::try_from(sent + lost).unwrap_or(usize::MAX), Instant::now());
        let target = self.plan.target.name();
        metrics::counter!("replayed_events_total", "target" => target, "outcome" => "sent").increment(sent);
        metrics::counter!("replayed_events_total", "target" => target, "outcome" => "failed").increment(lost);
    }
}

fn failure(item: &Item, error: &SendError, tries: u32) -> Failure {
    let event_id = item.event.as_ref().map(|event| event.event_id.clone()).unwrap_or_default();
    Failure { event_id, place: item.place, error: error.to_string(), tries, at: SystemTime::now() }
}

/// The checkpoint after the first `done` of a batch: none of the rest lies at it or before it. `None`: it stays where it is.
fn checkpoint(batch: &[(Item, bool)], done: usize) -> Option<u64> {
    let next = batch.get(done).map(|(item, _)| item.place);
    batch[..done].iter().rev().map(|(item, _)| item.place).find(|place| next.is_none_or(|next| *place < next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_does_not_lie_between_events_of_one_place() {
        let item = |place| (Item { place, event: Err(String::new()), scanned: 1 }, true);
        let batch = [1, 2, 2, 3].map(item);
        let checkpoints: Vec<_> = (0..=4).map(|done| checkpoint(&batch, done)).collect();
        assert_eq!(checkpoints, [None, Some(1), Some(1), Some(2), Some(3)]);
    }
}
