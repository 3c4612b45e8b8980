//! Following a log while it grows.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use runmesh_events::{AggregateId, EventType};

use super::{Harness, append, event, event_of};
use crate::{EventStore, StoreError, follow};

/// How many events the log of a case has in the end: more than what is kept in memory and more than a read.
const LENGTH: u64 = 700;

/// Numbers without a pattern, the same each time: a failure can be looked at again (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn id() -> AggregateId {
    AggregateId::from("followed")
}

/// Appends batches of 1 to 9 events from four writers until the log has its length.
fn grow(store: Arc<dyn EventStore>, seed: u64) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut numbers = Numbers(seed);
        let mut left = LENGTH;
        while left > 0 {
            let mut batches = Vec::new();
            for _ in 0..4 {
                let size = (numbers.next(9) + 1).min(left);
                left -= size;
                if size > 0 {
                    batches.push((0..size).map(event).collect::<Vec<_>>());
                }
            }
            let pause = numbers.next(4) == 0;
            let appends = batches.into_iter().map(|batch| append(&*store, "followed", batch));
            futures::future::join_all(appends).await;
            if pause {
                tokio::time::sleep(Duration::from_millis(numbers.next(3))).await;
            }
        }
    })
}

/// Reads from a cursor to the end of the log, or until it has read so many.
async fn read(store: Arc<dyn EventStore>, after: u64, count: u64, slow: bool) -> u64 {
    let mut events = Box::pin(follow(store, id(), after));
    let mut last = after;
    while last < LENGTH && last - after < count {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.sequence, last + 1, "after {after}");
        assert_eq!(event.aggregate_id, "followed");
        last = event.sequence;
        if slow && last.is_multiple_of(50) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    last
}

/// Followers from any cursor, begun at any time, fast and slow, see every event after it once and in order.
pub async fn followers_see_exactly_the_log<H: Harness>() {
    for seed in 1..=3 {
        let harness = H::new().await;
        let growing = grow(harness.events(), seed);
        let mut numbers = Numbers(seed + 100);
        let mut followers = Vec::new();
        for number in 0..24 {
            // Some wait for events that are not there yet.
            let after = numbers.next(if number % 4 == 0 { LENGTH } else { 50 });
            followers.push(tokio::spawn(read(harness.events(), after, u64::MAX, number % 3 == 0)));
            tokio::time::sleep(Duration::from_millis(numbers.next(4))).await;
        }
        growing.await.unwrap();
        followers.push(tokio::spawn(read(harness.events(), 0, u64::MAX, false)));
        for follower in followers {
            assert_eq!(follower.await.unwrap(), LENGTH);
        }
    }
}

/// A follower that is cut and comes back at the last event that it saw misses nothing and sees nothing twice.
pub async fn a_follower_goes_on_after_any_cut<H: Harness>() {
    let harness = H::new().await;
    let growing = grow(harness.events(), 7);
    let mut followers = Vec::new();
    for follower in 0..12 {
        let store = harness.events();
        followers.push(tokio::spawn(async move {
            let mut numbers = Numbers(follower + 1);
            let (mut after, mut cuts) = (0, 0);
            while after < LENGTH {
                after = read(Arc::clone(&store), after, numbers.next(60) + 1, false).await;
                cuts += 1;
            }
            cuts
        }));
    }
    growing.await.unwrap();
    for follower in followers {
        assert!(follower.await.unwrap() > 10);
    }
}

/// A wake for some types tells which of them were appended, also between two calls; a dropped call loses nothing.
pub async fn a_wake_tells_of_what_was_appended<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    let wake = store.live().wake_on(&[EventType::ExecutionStarted]);
    let both = store.live().wake_on(&[EventType::ExecutionStarted, EventType::PodCreated]);
    append(&*store, "a", vec![event_of(EventType::PodCreated, 1)]).await;
    append(&*store, "a", vec![event(2)]).await;
    let woken = both.woken().await;
    assert!(woken.contains(EventType::ExecutionStarted) && woken.contains(EventType::PodCreated));
    let woken = wake.woken().await;
    assert!(woken.contains(EventType::ExecutionStarted) && !woken.contains(EventType::PodCreated));
    tokio::select! {
        biased;
        _ = wake.woken() => panic!("woken for nothing"),
        () = tokio::task::yield_now() => {}
    }
    append(&*store, "b", vec![event_of(EventType::PodCreated, 1)]).await;
    append(&*store, "b", vec![event(2)]).await;
    assert!(wake.woken().await.contains(EventType::ExecutionStarted));
}

/// A follower of a log that is deleted is told, whether it waits at the end or has not come that far.
pub async fn followers_of_a_deleted_log_are_told<H: Harness>() {
    let harness = H::new().await;
    let store = harness.events();
    append(&*store, "followed", vec![event(0), event(1)]).await;
    let mut at_the_end = Box::pin(follow(Arc::clone(&store), id(), 2));
    let mut behind = Box::pin(follow(Arc::clone(&store), id(), 0));
    let mut later = Box::pin(follow(Arc::clone(&store), id(), 0));
    assert_eq!(later.next().await.unwrap().unwrap().sequence, 1);
    let waiting = tokio::spawn(async move { at_the_end.next().await });
    store.delete_aggregate(&id()).await.unwrap();
    for told in [waiting.await.unwrap(), behind.next().await] {
        assert!(matches!(told, Some(Err(StoreError::Gone(_)))), "{told:?}");
    }
    // What was read before is still given, then the same.
    assert_eq!(later.next().await.unwrap().unwrap().sequence, 2);
    let told = later.next().await;
    assert!(matches!(told, Some(Err(StoreError::Gone(_)))), "{told:?}");
    // A new log of the same aggregate is followed from its start.
    append(&*store, "followed", vec![event(0)]).await;
    let mut anew = Box::pin(follow(store, id(), 0));
    assert_eq!(anew.next().await.unwrap().unwrap().sequence, 1);
}
