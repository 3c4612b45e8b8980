//! What this process appends to a store that is shared.

use std::{
    collections::{HashSet, VecDeque},
    pin::pin,
};

use futures::TryStreamExt as _;
use runmesh_store::{Appends, Leases, Position, StoreError, Stored, unpublished_pages};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{BACKOFF, BATCH, FAREWELL, LEASE, Relay};

/// What stands before the name of a process in the name of its lease.
pub(super) const PUBLISHER: &str = "publisher/";

/// How many batches are marked as published at the same time.
const MARKS: usize = 8;

/// What is on its way.
struct Outbox {
    appends: Appends,
    waiting: VecDeque<Stored>,
    marks: JoinSet<()>,
    /// What was found in the store and published, and may still come by the appends.
    found: HashSet<Position>,
}

impl Relay {
    /// Publishes until `shutdown` what this process appends. `appends` has to be taken, and this called, before the first
    /// append; `ready` is cancelled when the lease is held and appending may begin. The holder of the leases is the
    /// publisher's name that the store was opened with.
    pub async fn run_own(
        &self,
        leases: Leases,
        appends: Appends,
        ready: CancellationToken,
        shutdown: CancellationToken,
    ) {
        let mut outbox = Outbox { appends, waiting: VecDeque::new(), marks: JoinSet::new(), found: HashSet::new() };
        let name = format!("{PUBLISHER}{}", leases.holder());
        let mut is_first = true;
        loop {
            let Some(mut lease) = shutdown.run_until_cancelled(leases.wait_for(&name, LEASE)).await else { return };
            ready.cancel();
            let work = async {
                if !is_first {
                    // Another may have published what waited; the store knows.
                    self.catch_up(leases.holder(), &mut outbox).await;
                }
                self.publish_appends(leases.holder(), &mut outbox, &shutdown).await;
            };
            tokio::select! {
                // A batch that is on its way at the shutdown is not cut: it would be published again.
                () = leases.keep(&mut lease) => {
                    tracing::warn!("the lease for what this process publishes was lost; taking it again");
                    is_first = false;
                    continue;
                }
                () = work => {}
            }
            if timeout(FAREWELL, self.publish_rest(&mut outbox)).await.is_ok() {
                // Nothing is left behind, so nobody need look for it.
                let _ = leases.release(lease).await;
            }
            return;
        }
    }

    async fn publish_appends(&self, publisher: &str, outbox: &mut Outbox, shutdown: &CancellationToken) {
        let mut wait = BACKOFF.0;
        while !shutdown.is_cancelled() {
            if outbox.waiting.is_empty() {
                match shutdown.run_until_cancelled(outbox.appends.next()).await {
                    Some(Some(batch)) => outbox.take(batch),
                    Some(None) | None => return,
                }
            }
            outbox.take_more();
            if outbox.appends.take_missed() {
                self.catch_up(publisher, outbox).await;
                continue;
            }
            match self.publish_waiting(outbox).await {
                true => wait = BACKOFF.0,
                false => {
                    sleep(wait).await;
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Publishes a batch of what waits. `false`: some of it waits still. Cancel-safe as far as nothing is forgotten: what
    /// was on its way is published again, or found in the store.
    async fn publish_waiting(&self, outbox: &mut Outbox) -> bool {
        let count = outbox.waiting.len().min(BATCH);
        let batch: Vec<Stored> = outbox.waiting.iter().take(count).cloned().collect();
        let published = match self.publish(batch).await {
            Ok(published) => published,
            Err(error) => {
                tracing::warn!(%error, "can't keep a dead letter; trying again");
                return false;
            }
        };
        outbox.waiting.drain(..count);
        if !published.done.is_empty() {
            if outbox.marks.len() >= MARKS {
                outbox.marks.join_next().await;
            }
            let relay = self.clone();
            outbox.marks.spawn(async move { relay.mark_surely(&published.done).await });
            while outbox.marks.try_join_next().is_some() {}
        }
        let Some((left, error)) = published.left else { return true };
        tracing::warn!(%error, events = left.len(), "can't publish; trying again");
        for stored in left.into_iter().rev() {
            outbox.waiting.push_front(stored);
        }
        false
    }

    /// Publishes what the store has of this process, and nothing twice of what waits.
    async fn catch_up(&self, publisher: &str, outbox: &mut Outbox) {
        while outbox.marks.join_next().await.is_some() {}
        outbox.take_more_of_all();
        outbox.waiting.clear();
        outbox.found.clear();
        let mut wait = BACKOFF.0;
        while let Err(error) = self.publish_found(publisher, outbox).await {
            tracing::warn!(%error, "can't look for what is not published; trying again");
            sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn publish_found(&self, publisher: &str, outbox: &mut Outbox) -> Result<(), StoreError> {
        let mut pages = pin!(unpublished_pages(self.store.as_ref(), BATCH));
        while let Some(page) = pages.try_next().await? {
            let own: Vec<Stored> = page
                .into_iter()
                .filter(|unpublished| unpublished.publisher == publisher)
                .map(|unpublished| unpublished.stored)
                .filter(|stored| !outbox.found.contains(&stored.position))
                .collect();
            outbox.found.extend(own.iter().map(|stored| stored.position));
            self.publish_all(own).await;
        }
        Ok(())
    }

    async fn publish_rest(&self, outbox: &mut Outbox) {
        loop {
            outbox.take_more_of_all();
            if outbox.waiting.is_empty() {
                break;
            }
            if !self.publish_waiting(outbox).await {
                sleep(BACKOFF.0).await;
            }
        }
        while outbox.marks.join_next().await.is_some() {}
    }
}

impl Outbox {
    fn take(&mut self, batch: Vec<Stored>) {
        let found = &mut self.found;
        self.waiting.extend(batch.into_iter().filter(|stored| !found.remove(&stored.position)));
    }

    fn take_more(&mut self) {
        while self.waiting.len() < BATCH
            && let Some(batch) = self.appends.try_next()
        {
            self.take(batch);
        }
    }

    fn take_more_of_all(&mut self) {
        while let Some(batch) = self.appends.try_next() {
            self.take(batch);
        }
    }
}
