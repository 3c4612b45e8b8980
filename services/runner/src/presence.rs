//! Tells that the runner is there and what it offers. Whether it is given more is the scheduler's affair.

use std::time::Duration;

use prost::Message as _;
use runmesh_store::StoreError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::service::{LEASE, Runner};

/// How often a sign of life is given.
const INTERVAL: Duration = Duration::from_secs(3);

/// What a runner offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// How many executions it runs at once.
    pub slots: usize,
    /// Bytes of memory of the largest execution that it can run. 0: any.
    pub memory_bytes: u64,
    /// Thousandths of a core of the largest one. 0: any.
    pub cpu_millis: u64,
}

impl Runner {
    /// Gives a sign of life. To be called before the scheduler looks for runners.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn announce(&self) -> Result<(), StoreError> {
        let Offer { slots, memory_bytes, cpu_millis } = self.inner.offer;
        let words = runmesh_proto::queue::Runner {
            runner: self.inner.node.clone(),
            slots: i32::try_from(slots).unwrap_or(i32::MAX),
            memory_bytes: i64::try_from(memory_bytes).unwrap_or(i64::MAX),
            cpu_millis: i64::try_from(cpu_millis).unwrap_or(i64::MAX),
            ..Default::default()
        };
        self.inner.members.announce(&self.inner.node, &words.encode_to_vec(), LEASE).await
    }

    /// Gives signs of life until `shutdown`, and then takes its leave.
    pub async fn keep_announcing(&self, shutdown: CancellationToken) {
        let mut pause = INTERVAL;
        while shutdown.run_until_cancelled(sleep(pause)).await.is_some() {
            pause = match self.announce().await {
                Ok(()) => INTERVAL,
                Err(error) => {
                    tracing::warn!(%error, "can't give a sign of life; trying again");
                    Duration::from_millis(500)
                }
            };
        }
        if let Err(error) = self.inner.members.leave(&self.inner.node).await {
            tracing::warn!(%error, "the runner is believed to be there until its sign of life is too old");
        }
    }
}
