//! Keeping that redrives were handled: many at a time, while the workers go on.

use std::sync::Arc;

use runmesh_events::GroupName;
use runmesh_store::{Versioned, in_background};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{KeyedQueue, Progress, worker::surely};
use crate::{DeadLetter, DeadLetters, Delivery};

/// How many are kept together at most, and how many may wait meanwhile.
pub(super) const TOGETHER: usize = 64;

/// How many times so many are kept at the same time.
const AT_A_TIME: usize = 3;

/// A redrive that was handled, and the letter that waits for it, as it was before.
#[derive(Debug)]
pub(super) struct Handled {
    pub(super) delivery: Delivery,
    pub(super) letter: Box<Versioned<DeadLetter>>,
    /// Given back when that is kept.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Keeps what a group's workers have handled.
pub(super) struct Resolver {
    pub(super) group: GroupName,
    pub(super) dead_letters: DeadLetters,
    pub(super) queue: Arc<KeyedQueue>,
    pub(super) progress: Arc<Progress>,
    pub(super) shutdown: CancellationToken,
}

impl Resolver {
    /// Goes on until no worker is left, and all is kept.
    pub(super) async fn run(self, mut handled: mpsc::Receiver<Handled>) {
        let (resolver, mut keeping) = (Arc::new(self), JoinSet::new());
        loop {
            let mut some = Vec::new();
            if handled.recv_many(&mut some, TOGETHER).await == 0 {
                break;
            }
            if keeping.len() == AT_A_TIME {
                keeping.join_next().await;
            }
            while keeping.try_join_next().is_some() {}
            let resolver = Arc::clone(&resolver);
            // What is delivered again disturbs nobody.
            keeping.spawn(in_background(async move { resolver.keep(&some).await }));
        }
        while keeping.join_next().await.is_some() {}
    }

    async fn keep(&self, handled: &[Handled]) {
        let seen: Vec<_> = handled.iter().map(|handled| (&handled.delivery, &*handled.letter)).collect();
        let kept = self.dead_letters.resolve_seen(&seen).await;
        for (Handled { delivery, .. }, is_kept) in handled.iter().zip(kept) {
            // The letter has changed since it was seen, or the store fails.
            let resolve = || self.dead_letters.resolve(self.group, delivery);
            if is_kept || surely(self.group, &self.shutdown, resolve).await.is_some() {
                self.progress.finished(delivery);
                self.queue.done(delivery);
            } else {
                self.progress.given_up(delivery);
            }
        }
    }
}
