//! Logs of many buckets.

use mongodb::bson::doc;
use runmesh_events::{AggregateId, EventType, NewEvent, Payload, TraceParent};
use runmesh_proto::event::ExecutionOutput;
use runmesh_store::{
    EventStore, Expected, Filter, Position, StoreError,
    conformance::{event, event_of, run, sequences},
};

use crate::harness::{TestDatabase, append, log};

fn id() -> AggregateId {
    AggregateId::from("long")
}

fn output(bytes: usize) -> NewEvent {
    let payload = Payload::from(ExecutionOutput { data: vec![7; bytes].into(), ..Default::default() });
    NewEvent::root("test", "", &TraceParent::new_root(), payload)
}

/// A log of 1,000 events: pages from any place, types, heads and scans, by the process that wrote it and by one that sees
/// it for the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_is_read_from_any_place() {
    run(async {
        let database = TestDatabase::new();
        let store = database.open("writer").await;
        for number in 0..100 {
            let batch = (0..10).map(|part| {
                if part == 4 && number % 25 == 0 { event_of(EventType::PodCreated, part) } else { event(part) }
            });
            let appended = append(&store, &id(), batch.collect()).await;
            assert_eq!(appended.last_sequence(), 10 * number + 10);
        }
        let count = database.buckets().await.count_documents(doc! {}).await.unwrap();
        assert!((14..=18).contains(&count), "{count} buckets");
        for store in [&store, &database.open("other").await] {
            assert_eq!(store.head(&id()).await.unwrap(), 1_000);
            for (after, limit) in [(0, 1_000), (0, 10), (69, 2), (70, 1), (500, 200), (990, 100), (999, 5), (640, 640)]
            {
                let found = sequences(&store.read(&id(), after, limit, &[]).await.unwrap());
                let expected: Vec<u64> = (after + 1..=1_000).take(limit).collect();
                assert_eq!(found, expected, "{limit} after {after}");
            }
            assert!(store.read(&id(), 1_000, 5, &[]).await.unwrap().is_empty());
            assert!(store.read(&id(), 5_000, 5, &[]).await.unwrap().is_empty());
            // Twice: the second time it is known which buckets have such events.
            for _ in 0..2 {
                let rare = store.read(&id(), 0, 10, &[EventType::PodCreated]).await.unwrap();
                assert_eq!(sequences(&rare), [5, 255, 505, 755]);
                let rare = store.read(&id(), 300, 1, &[EventType::PodCreated]).await.unwrap();
                assert_eq!(sequences(&rare), [505]);
            }
            let (mut after, mut found) = (Position(0), Vec::new());
            loop {
                let page = store.scan(&Filter::default(), after, 300).await.unwrap();
                let Some(last) = page.last() else { break };
                after = last.position;
                found.extend(page.iter().map(|stored| stored.event.sequence));
            }
            assert!(found.into_iter().eq(1..=1_000));
        }
    })
    .await;
}

/// Events that fill a bucket each, and one append that is larger than what other buckets hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_have_buckets_of_their_own() {
    run(async {
        let database = TestDatabase::new();
        let store = database.open("writer").await;
        for _ in 0..5 {
            append(&store, &id(), vec![output(100 << 10)]).await;
        }
        append(&store, &id(), (0..20).map(|_| output(50 << 10)).collect()).await;
        append(&store, &id(), vec![event("last")]).await;
        let count = database.buckets().await.count_documents(doc! {}).await.unwrap();
        assert_eq!(count, 7);
        let cold = database.open("reader").await;
        assert!(log(&cold, &id()).await.into_iter().eq(1..=26));
        let tail = cold.read(&id(), 24, 10, &[]).await.unwrap();
        assert_eq!(sequences(&tail), [25, 26]);
        assert!(matches!(&tail[0].payload, Some(Payload::ExecutionOutput(output)) if output.data.len() == 50 << 10));
        let refused = store.append(&id(), Expected::Any, vec![output(7 << 20), output(7 << 20)]).await;
        assert!(matches!(&refused, Err(StoreError::Invalid(text)) if text.contains("bytes")), "{refused:?}");
        assert_eq!(store.head(&id()).await.unwrap(), 26);
    })
    .await;
}

/// A bucket that another process has closed takes nothing more: the log goes on in the next one, for those too who have
/// not heard of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_bucket_takes_nothing_more() {
    run(async {
        let database = TestDatabase::new();
        let (ann, bob) = (database.open("ann").await, database.open("bob").await);
        append(&bob, &id(), vec![event(1), event(2)]).await;
        let closed = doc! { "$set": { "full": true } };
        database.buckets().await.update_one(doc! { "_id": "long/1" }, closed).await.unwrap();
        assert_eq!(append(&ann, &id(), vec![event(3)]).await.last_sequence(), 3);
        assert_eq!(append(&bob, &id(), vec![event(4)]).await.last_sequence(), 4);
        for store in [&ann, &bob] {
            assert_eq!(log(store, &id()).await, [1, 2, 3, 4]);
        }
        assert_eq!(database.buckets().await.count_documents(doc! {}).await.unwrap(), 2);
    })
    .await;
}

/// A bucket is closed some time after its first event, so that scans find what comes after a position without looking at
/// all that is older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_bucket_is_closed() {
    run(async {
        let database = TestDatabase::new();
        let buckets = database.buckets().await;
        let store = database.open("ann").await;
        for (number, minutes, expected) in [(1, 0, 1), (2, 2, 2), (3, 0, 2), (4, 2, 3)] {
            // Older by so much: positions are microseconds times 1,024.
            let older = doc! { "$inc": { "first": -minutes * 60_000_000 * 1_024_i64 } };
            buckets.update_many(doc! {}, older).await.unwrap();
            let store = if number == 3 { store.clone() } else { database.open("cold").await };
            assert_eq!(append(&store, &id(), vec![event(number)]).await.last_sequence(), number);
            assert_eq!(buckets.count_documents(doc! {}).await.unwrap(), expected, "after event {number}");
        }
        assert_eq!(log(&store, &id()).await, [1, 2, 3, 4]);
    })
    .await;
}

/// An id is found in any bucket of its log, by the process that wrote it and by another, in a log that is known as a whole
/// and in one that is too long for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_known_in_whatever_bucket_it_is() {
    run(async {
        let database = TestDatabase::new();
        let store = database.open("writer").await;
        let mut batches = Vec::new();
        for length in [3, 11] {
            while batches.len() < length {
                let batch: Vec<_> = (0..400).map(event).collect();
                append(&store, &id(), batch.clone()).await;
                batches.push(batch);
            }
            let head = length as u64 * 400;
            for store in [&store, &database.open("other").await] {
                for number in [0, 1, length - 1] {
                    let again = append(store, &id(), batches[number][10..20].to_vec()).await;
                    assert!(again.duplicate, "batch {number}");
                    assert_eq!(again.events[0].sequence, 400 * number as u64 + 11);
                    let known = batches[number][5].clone();
                    let result = store.append(&id(), Expected::Any, vec![event("new"), known.clone()]).await;
                    assert!(matches!(result, Err(StoreError::EventIdInUse(id)) if id == known.event_id), "{result:?}");
                }
                let both = vec![batches[0][0].clone(), batches[length - 1][0].clone()];
                let again = append(store, &id(), both).await;
                assert_eq!((again.duplicate, sequences(&again.events)), (true, vec![1, head - 399]));
                assert_eq!(store.head(&id()).await.unwrap(), head);
            }
        }
    })
    .await;
}

/// Many logs that grow at the same time: a scan has all of them in one order, whatever its pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_merges_logs_in_one_order() {
    run(async {
        let database = TestDatabase::new();
        let stores = [database.open("a").await, database.open("b").await];
        let writers = (0..12_usize).map(|writer| {
            let store = stores[writer % 2].clone();
            tokio::spawn(async move {
                let log = AggregateId::from(format!("log-{writer}"));
                for number in 0..15 {
                    append(&store, &log, vec![event(number), event(number), event(number)]).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let whole = stores[0].scan(&Filter::default(), Position(0), 10_000).await.unwrap();
        assert_eq!(whole.len(), 540);
        assert!(whole.is_sorted_by_key(|stored| stored.position));
        for limit in [60, 359] {
            let (mut after, mut found) = (Position(0), Vec::new());
            loop {
                let page = stores[1].scan(&Filter::default(), after, limit).await.unwrap();
                let Some(last) = page.last() else { break };
                after = last.position;
                found.extend(page.into_iter().map(|stored| stored.event));
            }
            assert!(found.iter().eq(whole.iter().map(|stored| &stored.event)), "pages of {limit}");
        }
        let one = Filter { aggregate: Some(AggregateId::from("log-3")), ..Filter::default() };
        let one = stores[0].scan(&one, Position(0), 100).await.unwrap();
        assert!(one.iter().map(|stored| stored.event.sequence).eq(1..=45));
        let rare = Filter { types: vec![EventType::PodFailed], ..Filter::default() };
        assert!(stores[0].scan(&rare, Position(0), 100).await.unwrap().is_empty());
    })
    .await;
}
