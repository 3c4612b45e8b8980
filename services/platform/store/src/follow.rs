//! An aggregate's log from any place on, and then live, without a gap, a duplicate or a reordering between the two.

use std::{collections::VecDeque, sync::Arc};

use futures::{Stream, stream};
use runmesh_events::{AggregateId, Event};

use crate::{EventStore, StoreError, Subscription};

/// How many events one read of the store brings.
const READ: usize = 128;

struct Follower {
    store: Arc<dyn EventStore>,
    aggregate: AggregateId,
    subscription: Subscription,
    after: u64,
    ready: VecDeque<Arc<Event>>,
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
    let follower = Follower { store, aggregate, subscription, after, ready: VecDeque::new() };
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
                return Ok(event);
            }
            let found = match self.subscription.recent(self.after) {
                Some(recent) => recent,
                None => self.store.read(&self.aggregate, self.after, READ, &[]).await?,
            };
            if found.is_empty() && !self.subscription.beyond(self.after).await {
                return Err(StoreError::Gone(self.aggregate.clone()));
            }
            self.ready.extend(found);
        }
    }
}
