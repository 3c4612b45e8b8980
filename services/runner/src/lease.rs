//! The document of a run: who runs it, and until when that is believed.

use std::time::SystemTime;

use runmesh_store::{Document, Index, IndexValue, Page, PageQuery, Revision, StoreError, from_json, to_json};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    execute::{Execution, GivenUp},
    service::{Inner, LEASE},
};

/// A run that a node has taken on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunLease {
    pub(crate) execution_id: String,
    pub(crate) attempt: u32,
    pub(crate) node: String,
    pub(crate) until: SystemTime,
}

impl RunLease {
    /// Whether it is of the same attempt at the same node.
    fn is_of(&self, other: &Self) -> bool {
        (&self.node, self.attempt) == (&other.node, other.attempt)
    }
}

const BY_NODE: &str = "by_node";

impl Document for RunLease {
    const COLLECTION: &'static str = "runs";
    const INDEXES: &'static [Index] = &[Index { name: BY_NODE, fields: &["node"] }];

    fn id(&self) -> String {
        self.execution_id.clone()
    }

    fn index_values(&self) -> Vec<(&'static str, IndexValue)> {
        vec![("node", self.node.as_str().into())]
    }

    fn due(&self) -> Option<SystemTime> {
        Some(self.until)
    }

    fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        from_json(bytes, "the lease of a run")
    }
}

impl Inner {
    /// A page of the leases of this node.
    pub(crate) async fn own_leases(&self, after: Option<String>) -> Result<Page<RunLease>, StoreError> {
        let equal = vec![self.node.as_str().into()];
        self.leases.page(PageQuery { index: BY_NODE, equal, limit: 1_000, after, ..PageQuery::default() }).await
    }

    /// Takes the lease of a run from an attempt that is recorded as lost. `None`: another runner has it, or had it: then it runs
    /// out and the attempt is recorded as lost.
    pub(crate) async fn take_over(&self, lease: &RunLease, lost: u32) -> Result<Option<Revision>, StoreError> {
        let found = self.leases.get(&lease.execution_id).await?;
        match found {
            Some(found) if found.document.attempt <= lost => self.leases.update(lease, found.revision).await.map(Some),
            _ => Ok(None),
        }
    }
}

impl Execution {
    /// Gives a sign of life.
    pub(crate) async fn renew(&mut self) -> Result<(), GivenUp> {
        self.renew_at = Instant::now() + LEASE / 3;
        self.lease.document.until = SystemTime::now() + LEASE;
        match self.runner.leases.update(&self.lease.document, self.lease.revision).await {
            Ok(revision) => self.lease.revision = revision,
            // The lease was claimed as run out: this node slept, or its clock was set.
            Err(StoreError::RevisionMismatch { .. }) => self.adopt().await?,
            Err(error) => {
                tracing::warn!(execution_id = self.spec.execution_id, %error, "can't renew the lease of a run; trying again");
                self.renew_at = Instant::now() + LEASE / 15;
            }
        }
        Ok(())
    }

    /// Takes up the lease as it is now, if it is this node's still. If its claimer goes on to record the end, the next
    /// append finds that.
    async fn adopt(&mut self) -> Result<(), GivenUp> {
        match self.runner.leases.get(&self.spec.execution_id).await {
            Ok(Some(found)) if found.document.is_of(&self.lease.document) => {
                self.lease.revision = found.revision;
                self.renew_at = Instant::now();
                Ok(())
            }
            Ok(_) => Err(GivenUp::LeaseLost),
            Err(error) => {
                tracing::warn!(execution_id = self.spec.execution_id, %error, "can't read the lease of a run; trying again");
                self.renew_at = Instant::now() + LEASE / 15;
                Ok(())
            }
        }
    }
}
