//! What processes of a shared store left behind.

use std::{collections::HashSet, pin::pin, time::Duration};

use futures::TryStreamExt as _;
use runmesh_store::{Lease, Leases, StoreError, Stored, unpublished_pages};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{BATCH, LEASE, Relay, own::PUBLISHER};

/// The lease of the process that looks for what is left behind.
const SWEEPER: &str = "relay";

/// How often leases that ran out are looked for.
const LOOK: Duration = Duration::from_secs(2);

/// How often all that is unpublished is looked through, whoever appended it.
const LOOK_AT_ALL: Duration = Duration::from_secs(60);

impl Relay {
    /// Publishes what other processes appended and can't publish any more, until `shutdown`. Of the processes that call
    /// this, one works and the others wait.
    pub async fn run_orphans(&self, leases: Leases, shutdown: CancellationToken) {
        while let Some(mut lease) = shutdown.run_until_cancelled(leases.wait_for(SWEEPER, LEASE)).await {
            tracing::debug!("looks for what others left behind");
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = leases.keep(&mut lease) => continue,
                () = self.look_for_orphans(&leases) => {}
            }
            // Otherwise it ends by itself.
            let _ = leases.release(lease).await;
            return;
        }
    }

    async fn look_for_orphans(&self, leases: &Leases) {
        let mut all_at = Instant::now();
        loop {
            let all = Instant::now() >= all_at;
            match self.publish_orphans(leases, all).await {
                Ok(()) if all => all_at = Instant::now() + LOOK_AT_ALL,
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "can't look for what others left behind; trying again"),
            }
            sleep(LOOK).await;
        }
    }

    /// `all`: also of processes that have no lease at all.
    async fn publish_orphans(&self, leases: &Leases, all: bool) -> Result<(), StoreError> {
        let over = leases.run_out(PUBLISHER).await?;
        if over.is_empty() && !all {
            return Ok(());
        }
        let mut gone: HashSet<String> =
            over.iter().filter_map(|lease| lease.name().strip_prefix(PUBLISHER)).map(str::to_owned).collect();
        let mut alive = HashSet::from([leases.holder().to_owned()]);
        let mut count = 0;
        let mut pages = pin!(unpublished_pages(self.store.as_ref(), BATCH));
        while let Some(page) = pages.try_next().await? {
            let mut orphans: Vec<Stored> = Vec::new();
            for unpublished in page {
                let publisher = unpublished.publisher;
                if !gone.contains(&publisher) && !alive.contains(&publisher) {
                    let held = leases.is_held(&format!("{PUBLISHER}{publisher}")).await?;
                    if held { &mut alive } else { &mut gone }.insert(publisher.clone());
                }
                if gone.contains(&publisher) {
                    orphans.push(unpublished.stored);
                }
            }
            count += orphans.len();
            self.publish_all(orphans).await;
        }
        if count > 0 {
            tracing::warn!(events = count, "published what processes left behind that are gone");
        }
        for lease in over {
            self.forget(leases, lease).await?;
        }
        Ok(())
    }

    /// Removes the lease of a process that is gone. It does not hold if the process has come back: then it is at another
    /// revision.
    async fn forget(&self, leases: &Leases, lease: Lease) -> Result<(), StoreError> {
        leases.release(lease).await
    }
}
