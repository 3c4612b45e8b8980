//! Servers that die, and answers that are lost.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::FutureExt as _;
use runmesh_events::AggregateId;
use runmesh_servers::MongoLike;
use runmesh_store::{
    Documents, EventStore, Expected, MongoStore, Position, StoreError,
    conformance::{Job, event, run, sequences},
    mongodb::MongoConfig,
};
use tokio::time::{Instant, sleep};

use crate::{
    harness::{append, log},
    proxy::{Lost, Proxy},
};

fn id() -> AggregateId {
    AggregateId::from("log")
}

fn patient(uri: &str) -> MongoConfig {
    MongoConfig { publisher: "process".to_owned(), ..MongoConfig::new(uri) }
}

/// Settings with which a server that does not answer is soon given up.
fn impatient(uri: &str) -> MongoConfig {
    MongoConfig {
        server_selection_timeout: Duration::from_millis(500),
        operation_timeout: Duration::from_secs(2),
        ..patient(uri)
    }
}

async fn server() -> MongoLike {
    tokio::task::spawn_blocking(MongoLike::start).await.unwrap().unwrap()
}

/// The server is killed twice while 8 writers append to 4 logs. Each gets an acknowledgement or `Unavailable`, and tries
/// again with the same events until it has one. In the end every acknowledged event is there once, at its sequence, and
/// there is nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_was_acknowledged() {
    const APPENDS: usize = 60;
    run(async {
        let mut server = server().await;
        let store = MongoStore::open(impatient(&server.uri())).await.unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (store, done) = (store.clone(), Arc::clone(&done));
                let log = AggregateId::from(format!("log-{}", writer % 4));
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for number in 0..APPENDS {
                        let batch = vec![event(number), event(number)];
                        let appended = loop {
                            match store.append(&log, Expected::Any, batch.clone()).await {
                                Ok(appended) => break appended,
                                Err(StoreError::Unavailable(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        };
                        for (new, event) in batch.iter().zip(&appended.events) {
                            assert_eq!(event.event_id, new.event_id.to_string());
                        }
                        acknowledged.extend(appended.events);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    (log, acknowledged)
                })
            })
            .collect();
        for share in [3, 2] {
            while done.load(Ordering::Relaxed) < 8 * APPENDS / share {
                sleep(Duration::from_millis(5)).await;
            }
            server = tokio::task::spawn_blocking(move || {
                server.kill().unwrap();
                server.start_again().unwrap();
                server
            })
            .await
            .unwrap();
        }
        let mut acknowledged = Vec::new();
        for writer in writers {
            acknowledged.push(writer.await.unwrap());
        }
        let fresh = MongoStore::open(patient(&server.uri())).await.unwrap();
        for number in 0..4 {
            let log = AggregateId::from(format!("log-{number}"));
            let mut expected: Vec<_> =
                acknowledged.iter().filter(|(of, _)| *of == log).flat_map(|(_, events)| events).collect();
            expected.sort_unstable_by_key(|event| event.sequence);
            let found = fresh.read(&log, 0, usize::MAX, &[]).await.unwrap();
            assert!(sequences(&found).into_iter().eq(1..=(4 * APPENDS) as u64));
            assert!(found.iter().eq(expected));
        }
        assert_eq!(append(&store, &id(), vec![event("goes on")]).await.last_sequence(), 1);
    })
    .await;
}

/// A server that stands still is given up in time. What was sent to it may come to be; the same append finds out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_given_up_and_the_append_found_later() {
    run(async {
        let server = server().await;
        let store = MongoStore::open(impatient(&server.uri())).await.unwrap();
        append(&store, &id(), vec![event("first")]).await;
        let mut appends = store.live().appends();
        server.pause().unwrap();
        let batch = vec![event("second"), event("third")];
        let begun = Instant::now();
        let error = store.append(&id(), Expected::Sequence(1), batch.clone()).await.unwrap_err();
        assert!(error.is_transient() && begun.elapsed() < Duration::from_secs(20), "{error:?} {:?}", begun.elapsed());
        assert!(store.head(&id()).await.unwrap_err().is_transient());
        // Who publishes what this process appends is told to look for it.
        assert!(appends.next().await.unwrap().is_empty() && appends.take_missed());
        server.resume().unwrap();
        let appended = loop {
            match store.append(&id(), Expected::Sequence(1), batch.clone()).await {
                Ok(appended) => break appended,
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        };
        assert_eq!(sequences(&appended.events), [2, 3]);
        assert_eq!(log(&store, &id()).await, [1, 2, 3]);
        assert_eq!(store.unpublished(Position(0), 10).await.unwrap().len(), 3);
    })
    .await;
}

/// Whatever message of an append is lost, it adds its events once, says so, and tells of them once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_message_of_an_append_changes_nothing() {
    run(async {
        let server = server().await;
        let proxy = Proxy::before(server.address()).await;
        let store = MongoStore::open(patient(&proxy.uri())).await.unwrap();
        let mut appends = store.live().appends();
        let (mut head, mut told) = (0, HashSet::new());
        for lost in [Lost::Answer, Lost::Request] {
            for (round, command) in ["insert", "update", "update", "find"].into_iter().enumerate() {
                let log = AggregateId::from(format!("{lost:?}"));
                if command == "find" {
                    // In a process that knows nothing of the log yet.
                    let cold = MongoStore::open(patient(&proxy.uri())).await.unwrap();
                    proxy.lose(command, lost);
                    let appended = append(&cold, &log, vec![event(round)]).await;
                    assert_eq!((appended.last_sequence(), appended.duplicate), (head + 1, false));
                } else {
                    let expected = if command == "insert" { 0 } else { head };
                    proxy.lose(command, lost);
                    let batch = vec![event(round), event(round)];
                    let appended = store.append(&log, Expected::Sequence(expected), batch).await.unwrap();
                    head = expected + 2;
                    assert_eq!((appended.last_sequence(), appended.duplicate), (head, false), "{command} {lost:?}");
                    let batch = appends.try_next().unwrap();
                    assert!(batch.iter().map(|stored| &stored.event).eq(&appended.events));
                    assert!(batch.iter().all(|stored| told.insert(stored.position)));
                }
                assert!(proxy.has_lost(), "{command} {lost:?}");
            }
            assert!(appends.try_next().is_none() && !appends.take_missed());
            assert!(log(&store, &AggregateId::from(format!("{lost:?}"))).await.into_iter().eq(1..=head + 1));
        }
    })
    .await;
}

/// The bucket that a log grows into is inserted once, whatever is lost on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_message_of_a_new_bucket_changes_nothing() {
    run(async {
        let server = server().await;
        let proxy = Proxy::before(server.address()).await;
        let store = MongoStore::open(patient(&proxy.uri())).await.unwrap();
        let mut head = 0;
        for (command, lost) in
            [("insert", Lost::Answer), ("insert", Lost::Request), ("find", Lost::Answer), ("find", Lost::Request)]
        {
            head += 130;
            append(&store, &id(), (0..130).map(event).collect()).await;
            proxy.lose(command, lost);
            let appended = append(&store, &id(), vec![event("next")]).await;
            head += 1;
            assert_eq!((appended.last_sequence(), appended.duplicate), (head, false), "{command} {lost:?}");
            assert!(proxy.has_lost());
        }
        assert!(log(&store, &id()).await.into_iter().eq(1..=head));
    })
    .await;
}

/// Writes, claims and removals of documents are done once, whatever is lost, and nobody else's is taken for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_messages_of_documents_change_nothing() {
    run(async {
        let server = server().await;
        let proxy = Proxy::before(server.address()).await;
        let store = MongoStore::open(patient(&proxy.uri())).await.unwrap();
        let jobs = Documents::<Job>::open(Arc::new(store.clone())).await.unwrap();
        let now = SystemTime::now();
        for lost in [Lost::Answer, Lost::Request] {
            proxy.lose("insert", lost);
            let first = jobs.insert(&Job::new(1, "ann", 1)).await.unwrap();
            assert!(proxy.has_lost());
            proxy.lose("update", lost);
            let second = jobs.update(&Job::new(1, "bob", 2).due_at(5), first).await.unwrap();
            assert!(proxy.has_lost());
            let found = jobs.get("1").await.unwrap().unwrap();
            assert_eq!((second, found.revision, found.document.owner.as_str()), (first + 1, second, "bob"));

            proxy.lose("update", lost);
            let claims = jobs.claim_due(now, Duration::from_secs(60), 5).await.unwrap();
            assert!(proxy.has_lost());
            assert_eq!(claims.len(), 1, "{lost:?}");
            assert_eq!(jobs.get("1").await.unwrap().unwrap().revision, claims[0].token);

            // Somebody else's write is not taken for one's own, whatever was lost.
            let other = MongoStore::open(patient(&server.uri())).await.unwrap();
            let others = Documents::<Job>::open(Arc::new(other)).await.unwrap();
            let third = others.update(&Job::new(1, "cyd", 3), claims[0].token).await.unwrap();
            proxy.lose("update", lost);
            let late = jobs.update(&Job::new(1, "late", 4), claims[0].token).await;
            assert!(matches!(late, Err(StoreError::RevisionMismatch { .. })), "{late:?}");
            proxy.lose("insert", lost);
            let late = jobs.insert(&Job::new(1, "late", 4)).await;
            assert!(matches!(late, Err(StoreError::RevisionMismatch { .. })), "{late:?}");
            assert_eq!(jobs.get("1").await.unwrap().unwrap().document.owner, "cyd");

            proxy.lose("delete", lost);
            assert!(jobs.delete_if("1", third).await.unwrap());
            assert!(proxy.has_lost());
            assert!(!jobs.delete("1").await.unwrap());
        }
    })
    .await;
}

/// Marks and deletions are done when they are answered, whatever was lost before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_messages_of_marks_and_deletions_change_nothing() {
    run(async {
        let server = server().await;
        let proxy = Proxy::before(server.address()).await;
        let store = MongoStore::open(patient(&proxy.uri())).await.unwrap();
        for lost in [Lost::Answer, Lost::Request] {
            append(&store, &id(), (0..200).map(event).collect()).await;
            append(&store, &id(), vec![event("in a second bucket")]).await;
            let pending = store.unpublished(Position(0), 1_000).await.unwrap();
            let pending: Vec<_> = pending.into_iter().map(|unpublished| unpublished.stored).collect();
            assert_eq!(pending.len(), 201);
            proxy.lose("update", lost);
            store.mark_published(&pending).await.unwrap();
            assert!(proxy.has_lost() && store.unpublished(Position(0), 10).await.unwrap().is_empty());
            proxy.lose("delete", lost);
            store.delete_aggregate(&id()).await.unwrap();
            assert!(proxy.has_lost());
            assert_eq!(store.head(&id()).await.unwrap(), 0);
            assert!(store.get(&event("none").event_id).await.unwrap().is_none());
        }
    })
    .await;
}

/// What was begun is finished and told of when the caller goes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_caller_goes_away_is_told_of() {
    run(async {
        let server = server().await;
        let store = MongoStore::open(patient(&server.uri())).await.unwrap();
        let mut appends = store.live().appends();
        assert!(store.append(&id(), Expected::Any, vec![event(1)]).now_or_never().is_none());
        let told = appends.next().await.unwrap();
        assert_eq!(told.iter().map(|stored| stored.event.sequence).collect::<Vec<_>>(), [1]);
        assert_eq!(log(&store, &id()).await, [1]);
    })
    .await;
}
