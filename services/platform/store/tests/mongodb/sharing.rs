//! Several processes on one database.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all};
use runmesh_events::AggregateId;
use runmesh_store::{
    EventStore, Expected, Filter, Leases, Position, StoreError,
    conformance::{event, run, sequences},
    follow,
};

use crate::harness::{TestDatabase, append, log};

fn id() -> AggregateId {
    AggregateId::from("shared")
}

/// Two processes append to one log at the same time: no hole, nothing twice, and each append where it was told to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_appends_of_two_processes_leave_no_hole() {
    run(async {
        let database = TestDatabase::new();
        let stores = [database.open("a").await, database.open("b").await];
        let writers = (0..8).map(|writer| {
            let store = stores[writer % 2].clone();
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for number in 0..15 {
                    let batch: Vec<_> = (0..=number % 3).map(event).collect();
                    mine.extend(sequences(&append(&store, &id(), batch).await.events));
                }
                mine
            })
        });
        let mut all = BTreeSet::new();
        for mine in join_all(writers).await {
            let mine = mine.unwrap();
            assert!(mine.is_sorted());
            for sequence in mine {
                assert!(all.insert(sequence), "{sequence} twice");
            }
        }
        let count = all.len() as u64;
        assert!(all.into_iter().eq(1..=count) && count > 128, "more than two buckets");
        for store in &stores {
            assert!(log(store, &id()).await.into_iter().eq(1..=count));
            assert_eq!(store.head(&id()).await.unwrap(), count);
        }
    })
    .await;
}

/// Of two processes that expect one sequence one wins, each time; the other is told where the log is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_that_expect_one_sequence_one_wins() {
    run(async {
        let database = TestDatabase::new();
        let stores = [database.open("a").await, database.open("b").await];
        let shared = id();
        for round in 0..40 {
            let race = stores.each_ref().map(|store| store.append(&shared, Expected::Sequence(round), vec![event(round)]));
            let [one, two] = join_all(race).await.try_into().unwrap();
            let lost = match (one, two) {
                (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
                other => panic!("round {round}: {other:?}"),
            };
            assert!(
                matches!(lost, StoreError::Conflict { expected, actual, .. } if expected == round && actual == round + 1),
                "round {round}: {lost:?}"
            );
        }
    })
    .await;
}

/// The same append by two processes, as when a delivery is given to both: it is there once, and both see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_append_by_two_processes_adds_once() {
    run(async {
        let database = TestDatabase::new();
        let stores = [database.open("a").await, database.open("b").await];
        let shared = id();
        for round in 0..40 {
            let batch = vec![event(round), event("with it")];
            let race = stores.each_ref().map(|store| append(store, &shared, batch.clone()));
            let done = join_all(race).await;
            assert_eq!(done[0].events, done[1].events);
            assert_eq!(done.iter().filter(|appended| !appended.duplicate).count(), 1, "round {round}");
            assert_eq!(done[0].last_sequence(), 2 * round + 2);
        }
    })
    .await;
}

/// A follower in one process sees what another appends: at once when it is told, and by its own looking when it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_what_another_process_appends() {
    run(async {
        let database = TestDatabase::new();
        let (writer, reader) = (database.open("writer").await, database.open("reader").await);
        let mut untold = Box::pin(follow(Arc::new(database.open("untold").await), id(), 0));
        let mut told = Box::pin(follow(Arc::new(reader.clone()), id(), 0));
        for number in 1..=150 {
            append(&writer, &id(), vec![event(number)]).await;
            reader.live().hint(&id(), number);
            assert_eq!(told.next().await.unwrap().unwrap().sequence, number);
        }
        for number in 1..=150 {
            assert_eq!(untold.next().await.unwrap().unwrap().sequence, number);
        }
        // At the end, and told of nothing.
        let (next, _) = tokio::join!(untold.next(), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            append(&writer, &id(), vec![event("last")]).await
        });
        assert_eq!(next.unwrap().unwrap().sequence, 151);
    })
    .await;
}

/// Events are published by the process that appended them, and marked by whoever has published them, also one that has
/// never seen their log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unpublished_events_name_their_process_and_anyone_marks_them() {
    run(async {
        let database = TestDatabase::new();
        let (ann, bob) = (database.open("ann").await, database.open("bob").await);
        let logs: Vec<AggregateId> = (0..3).map(|number| AggregateId::from(format!("log-{number}"))).collect();
        for round in 0..40 {
            for log in &logs {
                let store = if round % 2 == 0 { &ann } else { &bob };
                append(store, log, vec![event(round), event(round)]).await;
            }
        }
        let mut pending = Vec::new();
        let mut after = Position(0);
        loop {
            let page = ann.unpublished(after, 50).await.unwrap();
            let Some(last) = page.last() else { break };
            after = last.stored.position;
            pending.extend(page);
        }
        assert_eq!(pending.len(), 240);
        assert!(pending.is_sorted_by_key(|unpublished| unpublished.stored.position));
        for (index, unpublished) in pending.iter().enumerate() {
            let publisher = if index / 6 % 2 == 0 { "ann" } else { "bob" };
            assert_eq!(unpublished.publisher, publisher, "event {index}");
        }
        let cold = database.open("cold").await;
        let (first, rest) = pending.split_at(100);
        let stored =
            |part: &[runmesh_store::Unpublished]| -> Vec<_> { part.iter().map(|u| u.stored.clone()).collect() };
        cold.mark_published(&stored(first)).await.unwrap();
        let left = bob.unpublished(Position(0), 1_000).await.unwrap();
        let positions =
            |part: &[runmesh_store::Unpublished]| -> Vec<_> { part.iter().map(|u| u.stored.position).collect() };
        assert_eq!(positions(&left), positions(rest));
        bob.mark_published(&stored(rest)).await.unwrap();
        assert!(ann.unpublished(Position(0), 10).await.unwrap().is_empty());
        assert_eq!(ann.scan(&Filter::default(), Position(0), 1_000).await.unwrap().len(), 240);
    })
    .await;
}

/// A lease that one process gave back has a greater token when another takes it, whoever's clock it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_passes_between_processes_with_a_greater_token() {
    run(async {
        let database = TestDatabase::new();
        let mut newest = 0;
        for process in 0..4 {
            let name = format!("process-{process}");
            let leases = Leases::open(Arc::new(database.open(&name).await), name).await.unwrap();
            let lease = leases.acquire("lease", Duration::from_secs(300)).await.unwrap().unwrap();
            assert!(lease.token() > newest);
            newest = lease.token();
            leases.release(lease).await.unwrap();
        }
    })
    .await;
}
