//! An aggregate's log from any place on, and then live, without a gap, a duplicate or a reordering between the two.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{Stream, stream};
use runmesh_events::{AggregateId, Event};

use tokio::time::{sleep, timeout};

use crate::{EventStore, StoreError, Subscription};

/// How many events one read of the store brings.
const READ: usize = 128;

/// How long a follower of a shared store waits to be told of an append before it looks for itself: whoever was to tell
/// may be gone.
const LOOK: Duration = Duration::from_secs(1);

/// How long it waits before it looks again for what it was told of and did not find.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Follower {
    store: Arc<dyn EventStore>,
    aggregate: AggregateId,
    subscription: Subscription,
    after: u64,
    ready: VecDeque<Arc<Event>>,
    /// Whether it was told of events that it has not found yet.
    told: bool,
    /// How far the log is known to have come: a log that is shorter was deleted. `None`: it was not looked at yet.
    seen: Option<u64>,
}

/// Every event of the aggregate after `after`, then those that follow as they happen. The stream ends only with an
/// error; the caller knows which event is the last and stops there. It never holds more than one read in memory.
pub fn follow(
    store: Arc<dyn EventStore>,
    aggregate: AggregateId,
    after: u64,
) -> impl Stream<Item = Result<Arc<Event>, StoreError>> + Send {
    // Subscribed before the first read: what is appended in between is in the read or wakes the subscription.
    let subscription = store.live().subscribe(&aggregate);
    let follower = Follower { store, aggregate, subscription, after, ready: VecDeque::new(), told: false, seen: None };
    stream::try_unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Ok(Some((event, follower)))
    })
}

impl Follower {
    async fn next(&mut self) -> Result<Arc<Event>, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if event.sequence != self.after + 1 {
                    return Err(StoreError::Corrupt(format!(
                        "aggregate {} has sequence {} after {}",
                        self.aggregate, event.sequence, self.after
                    )));
                }
                self.after = event.sequence;
                self.seen = self.seen.max(Some(event.sequence));
                return Ok(event);
            }
            let found = match self.subscription.recent(self.after) {
                Some(recent) => recent,
                None => self.store.read(&self.aggregate, self.after, READ, &[]).await?,
            };
            match (found.is_empty(), self.store.is_shared()) {
                (false, _) => self.told = false,
                (true, true) => self.wait_or_look().await?,
                (true, false) if self.subscription.beyond(self.after).await => {}
                (true, false) => return Err(StoreError::Gone(self.aggregate.clone())),
            }
            self.ready.extend(found);
        }
    }

    /// Waits until there is reason to read again. What another process deleted, nobody tells of: it is looked for.
    async fn wait_or_look(&mut self) -> Result<(), StoreError> {
        match self.seen {
            // What is deleted from now on is noticed.
            None => {}
            Some(_) if self.told => sleep(LOOK_AGAIN).await,
            Some(_) => match timeout(LOOK, self.subscription.beyond(self.after)).await {
                Ok(true) => {
                    self.told = true;
                    return Ok(());
                }
                Ok(false) => return Err(StoreError::Gone(self.aggregate.clone())),
                Err(_) => {}
            },
        }
        let head = self.store.head(&self.aggregate).await?;
        if self.seen.is_some_and(|seen| head < seen) {
            return Err(StoreError::Gone(self.aggregate.clone()));
        }
        self.seen = Some(head);
        Ok(())
    }
}
