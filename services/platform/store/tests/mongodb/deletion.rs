//! Logs that are deleted, and made again, while others know them.

use std::sync::Arc;

use futures::StreamExt as _;
use mongodb::bson::doc;
use runmesh_events::AggregateId;
use runmesh_store::{
    EventStore, Expected, Filter, MongoStore, Position, StoreError,
    conformance::{event, run, sequences},
    follow,
};

use crate::harness::{TestDatabase, append, log};

fn id() -> AggregateId {
    AggregateId::from("deleted")
}

async fn grow(store: &MongoStore, count: usize) {
    for _ in 0..count.div_ceil(50) {
        append(store, &id(), (0..50).map(event).collect()).await;
    }
}

async fn is_empty(store: &MongoStore) -> bool {
    let scanned = store.scan(&Filter::default(), Position(0), 10).await.unwrap();
    let unpublished = store.unpublished(Position(0), 10).await.unwrap();
    let (read, behind) = (store.read(&id(), 0, 10, &[]).await.unwrap(), store.read(&id(), 150, 10, &[]).await.unwrap());
    let all_empty = scanned.is_empty() && unpublished.is_empty() && read.is_empty() && behind.is_empty();
    all_empty && store.head(&id()).await.unwrap() == 0
}

/// A log that one process deletes and makes again is the new one to the other too, whatever that knew of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_made_again_is_seen_by_processes_that_knew_the_old_one() {
    run(async {
        let database = TestDatabase::new();
        let (ann, bob) = (database.open("ann").await, database.open("bob").await);
        for (old, new) in [(20, 0), (20, 50), (150, 0), (150, 50), (150, 300)] {
            grow(&ann, old).await;
            // Bob knows where the log grows, and all of its buckets.
            append(&bob, &id(), vec![event("bob's")]).await;
            let head = log(&bob, &id()).await.len() as u64;
            ann.delete_aggregate(&id()).await.unwrap();
            if new > 0 {
                grow(&ann, new).await;
            }
            let now = ann.head(&id()).await.unwrap();
            assert_eq!(bob.head(&id()).await.unwrap(), now, "{old} events, then {new}");
            assert!(log(&bob, &id()).await.into_iter().eq(1..=now));
            for after in [0, head - 1, head] {
                let (one, other) = (bob.read(&id(), after, 100, &[]).await, ann.read(&id(), after, 100, &[]).await);
                assert_eq!(one.unwrap(), other.unwrap(), "after {after} of {old} events, then {new}");
            }
            let result = bob.append(&id(), Expected::Sequence(head), vec![event("late")]).await;
            if now == head {
                assert_eq!(result.unwrap().last_sequence(), head + 1);
            } else {
                assert!(matches!(result, Err(StoreError::Conflict { actual, .. }) if actual == now), "{result:?}");
            }
            let head = bob.head(&id()).await.unwrap();
            assert_eq!(append(&bob, &id(), vec![event("next")]).await.last_sequence(), head + 1);
            assert!(log(&ann, &id()).await.into_iter().eq(1..=head + 1));
            bob.delete_aggregate(&id()).await.unwrap();
            assert!(is_empty(&ann).await && is_empty(&bob).await);
        }
    })
    .await;
}

/// A log that was made again and has come as far as the old one is not taken for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_the_same_length_is_not_taken_for_the_old_one() {
    run(async {
        let database = TestDatabase::new();
        let (ann, bob) = (database.open("ann").await, database.open("bob").await);
        append(&bob, &id(), vec![event(1), event(2)]).await;
        ann.delete_aggregate(&id()).await.unwrap();
        let new = vec![event(1), event(2)];
        append(&ann, &id(), new.clone()).await;
        let again = bob.append(&id(), Expected::Sequence(2), new).await.unwrap();
        assert_eq!((again.duplicate, sequences(&again.events)), (true, vec![1, 2]));
        assert_eq!(append(&bob, &id(), vec![event(3)]).await.last_sequence(), 3);
    })
    .await;
}

/// An append by a process that has not heard of the deletion begins a new log, and is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_after_a_deletion_elsewhere_is_not_lost() {
    run(async {
        let database = TestDatabase::new();
        let (ann, bob) = (database.open("ann").await, database.open("bob").await);
        for old in [20, 300] {
            grow(&bob, old).await;
            ann.delete_aggregate(&id()).await.unwrap();
            assert_eq!(append(&bob, &id(), vec![event("new")]).await.last_sequence(), 1);
            assert_eq!(log(&ann, &id()).await, [1]);
            ann.delete_aggregate(&id()).await.unwrap();
        }
    })
    .await;
}

/// What a deletion leaves behind when it is cut short is not shown, takes no append, and stands in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deletion_left_behind_is_harmless() {
    run(async {
        let database = TestDatabase::new();
        let buckets = database.buckets().await;
        let first = doc! { "_id": format!("{}/1", id()) };
        let (warm, ann) = (database.open("warm").await, database.open("ann").await);
        let events: Vec<_> = (0..10).map(event).collect();
        let cut = async || {
            grow(&warm, 200).await;
            append(&warm, &id(), events.clone()).await;
            assert_eq!(log(&warm, &id()).await.len(), 210);
            assert_eq!(buckets.delete_one(first.clone()).await.unwrap().deleted_count, 1);
            assert!(buckets.count_documents(doc! {}).await.unwrap() > 1, "something is left over");
        };

        cut().await;
        assert!(ann.get(&events[0].event_id).await.unwrap().is_none());
        assert!(is_empty(&ann).await && is_empty(&warm).await);

        cut().await;
        assert!(is_empty(&warm).await && is_empty(&ann).await);

        // The process that knows the bucket that is left over appends to it, and has to notice.
        cut().await;
        let appended = append(&warm, &id(), vec![event("after")]).await;
        assert_eq!((appended.last_sequence(), appended.duplicate), (1, false));
        assert_eq!(log(&ann, &id()).await, [1]);

        // The new log grows into the numbers that are taken. Its events are those of the old one.
        grow(&ann, 300).await;
        assert!(log(&warm, &id()).await.into_iter().eq(1..=301));
        let again = append(&ann, &id(), events.clone()).await;
        assert_eq!((again.last_sequence(), again.duplicate), (311, false));
        let scanned = ann.scan(&Filter::default(), Position(0), 10_000).await.unwrap();
        assert!(scanned.iter().map(|stored| stored.event.sequence).eq(1..=311));

        // A second deletion finds what the first one has left.
        assert_eq!(buckets.delete_one(first.clone()).await.unwrap().deleted_count, 1);
        ann.delete_aggregate(&id()).await.unwrap();
        assert_eq!(buckets.count_documents(doc! {}).await.unwrap(), 0);
    })
    .await;
}

/// A follower in one process is told that another has deleted the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_told_of_a_deletion_by_another_process() {
    run(async {
        let database = TestDatabase::new();
        let (ann, bob) = (database.open("ann").await, database.open("bob").await);
        grow(&ann, 200).await;
        let mut follower = Box::pin(follow(Arc::new(bob), id(), 0));
        for sequence in 1..=200 {
            assert_eq!(follower.next().await.unwrap().unwrap().sequence, sequence);
        }
        ann.delete_aggregate(&id()).await.unwrap();
        let told = follower.next().await;
        assert!(matches!(told, Some(Err(StoreError::Gone(_)))), "{told:?}");
    })
    .await;
}

/// A mark that comes late, for an event of a log that was deleted and made again, marks nothing of the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_mark_touches_no_other_event() {
    run(async {
        let database = TestDatabase::new();
        let store = database.open("ann").await;
        let events = vec![event(1), event(2)];
        append(&store, &id(), events.clone()).await;
        let old: Vec<_> =
            store.unpublished(Position(0), 10).await.unwrap().into_iter().map(|pending| pending.stored).collect();
        store.delete_aggregate(&id()).await.unwrap();
        append(&store, &id(), events).await;
        store.mark_published(&old).await.unwrap();
        assert_eq!(store.unpublished(Position(0), 10).await.unwrap().len(), 2);
    })
    .await;
}
