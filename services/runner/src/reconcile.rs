//! Compares what the logs say runs here with what exists here, and puts right what differs.
//!
//! What is wrong at one look may be on its way; what is still wrong at the next one is repaired, and counted.

use std::{collections::BTreeSet, time::Duration};

use runmesh_store::{StoreError, Versioned};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    Stray,
    lease::RunLease,
    log::RunLog,
    service::{Inner, Runner},
};

/// What is counted, by what was wrong.
const REPAIRS: &str = "reconciler_repairs_total";

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    /// Something exists that belongs to no run.
    Stray(Stray),
    /// A run in hand whose execution is over by its log, or whose attempt was given up.
    Run(String),
    /// This runner's lease of an attempt that it has not in hand.
    Lease(String, u32),
}

impl Runner {
    /// Looks at what exists here every so often, until `shutdown`, and ends, removes and gives back what should not be: what
    /// two looks in a row find.
    pub async fn reconcile(&self, every: Duration, shutdown: CancellationToken) {
        for what in ["sandbox", "folder", "cgroup", "run", "lease"] {
            metrics::counter!(REPAIRS, "what" => what).increment(0);
        }
        let mut last = BTreeSet::new();
        while shutdown.run_until_cancelled(sleep(every)).await.is_some() {
            last = self.inner.look(last).await;
        }
    }
}

impl Inner {
    /// One look: repairs what was wrong at the last one too, and returns what is wrong now.
    async fn look(&self, last: BTreeSet<Wrong>) -> BTreeSet<Wrong> {
        let found = match self.wrong().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "can't compare runs with their logs; trying again");
                return last;
            }
        };
        let lasting: Vec<_> = found.intersection(&last).cloned().collect();
        let mut strays = Vec::new();
        for wrong in lasting {
            match wrong {
                Wrong::Stray(stray) => strays.push(stray),
                Wrong::Run(execution_id) => self.end_run(&execution_id),
                Wrong::Lease(execution_id, attempt) => {
                    if let Err(error) = self.give_back(&execution_id, attempt).await {
                        tracing::warn!(execution_id, %error, "can't give a lease back; trying again");
                    }
                }
            }
        }
        if !strays.is_empty() {
            match self.sandbox.remove_strays(strays).await {
                Ok(removed) => removed.iter().for_each(|stray| repaired(stray.kind(), &stray.to_string())),
                Err(error) => tracing::warn!(%error, "can't remove what belongs to no run; trying again"),
            }
        }
        found
    }

    async fn wrong(&self) -> Result<BTreeSet<Wrong>, StoreError> {
        let mut wrong = BTreeSet::new();
        match self.sandbox.strays().await {
            Ok(strays) => wrong.extend(strays.into_iter().map(Wrong::Stray)),
            Err(error) => tracing::warn!(%error, "can't look for what belongs to no run; trying again"),
        }
        for (execution_id, attempt) in self.attempts() {
            let log = RunLog::read(self.store.as_ref(), &execution_id).await?;
            if log.is_over(attempt) {
                wrong.insert(Wrong::Run(execution_id));
            }
        }
        let mut after = None;
        loop {
            let page = self.own_leases(after).await?;
            let leases = page.documents.into_iter().map(|found| found.document);
            wrong.extend(
                leases.filter(|lease| !self.holds(lease)).map(|lease| Wrong::Lease(lease.execution_id, lease.attempt)),
            );
            after = page.next;
            if after.is_none() {
                return Ok(wrong);
            }
        }
    }

    /// Whether the run of a lease is in hand.
    fn holds(&self, lease: &RunLease) -> bool {
        self.attempt_in_hand(&lease.execution_id) == Some(lease.attempt)
    }

    fn end_run(&self, execution_id: &str) {
        if self.abandon(execution_id) {
            repaired("run", execution_id);
        }
    }

    async fn give_back(&self, execution_id: &str, attempt: u32) -> Result<(), StoreError> {
        let Some(Versioned { document, revision }) = self.leases.get(execution_id).await? else { return Ok(()) };
        if document.attempt != attempt || document.node != self.node || self.holds(&document) {
            return Ok(());
        }
        self.bury(Versioned { document, revision }, "the runner has no run of it").await?;
        repaired("lease", execution_id);
        Ok(())
    }
}

fn repaired(what: &'static str, name: &str) {
    tracing::warn!(what, name, "repaired: it belonged to no run");
    metrics::counter!(REPAIRS, "what" => what).increment(1);
}
