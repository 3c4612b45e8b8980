//! Work that is kept as documents and carried on by whichever process claims them.

use std::time::{Duration, SystemTime};

use tokio::{sync::Notify, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{Claim, Document, Documents, in_background};

/// How documents are carried on.
#[derive(Debug, Clone, Copy)]
pub struct CarryOn {
    /// For how long a document is one process's before it has to say so again.
    pub lease: Duration,
    /// How many one process carries on at a time.
    pub at_a_time: usize,
    /// How often it is looked for documents that nobody carries on.
    pub look: Duration,
}

impl CarryOn {
    /// Claims documents that are due and carries each on, [in no hurry](in_background), until `shutdown`; then waits for what it
    /// has in hand, which has to hear of that by itself. `wake` has it look at once.
    pub async fn run<T, F>(
        self,
        documents: &Documents<T>,
        wake: &Notify,
        shutdown: &CancellationToken,
        carry_on: impl Fn(T) -> F,
    ) where
        T: Document,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut carried = JoinSet::new();
        while !shutdown.is_cancelled() {
            let room = self.at_a_time.saturating_sub(carried.len());
            let claimed = match room {
                0 => Ok(Vec::new()),
                room => documents.claim_due(SystemTime::now(), self.lease, room).await,
            };
            match claimed {
                Ok(claims) => {
                    for Claim { document, .. } in claims {
                        carried.spawn(in_background(carry_on(document)));
                    }
                }
                Err(error) => tracing::warn!(%error, "can't look for {}; trying again", T::COLLECTION),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = wake.notified() => {}
                () = sleep(self.look) => {}
            }
            while carried.try_join_next().is_some() {}
        }
        while carried.join_next().await.is_some() {}
    }
}
