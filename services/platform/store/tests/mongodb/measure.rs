//! Rates, to be looked at, not to be tested: `cargo test --release -p runmesh-store --test mongodb -- --ignored --nocapture`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use runmesh_events::AggregateId;
use runmesh_servers::MongoLike;
use runmesh_store::{
    Documents, EventStore, Expected, Filter, MongoStore, Position,
    conformance::{Job, event},
};
use uuid::Uuid;

use crate::harness::{TestDatabase, config};

/// How long a rate is taken for.
const TIME: Duration = Duration::from_secs(4);

/// How many events a log gets, about as an execution does.
const LOG: u64 = 16;

/// Calls per second of so many callers, each one after the other.
async fn rate<F, W>(callers: usize, caller: impl Fn() -> F) -> f64
where
    F: FnMut(u64) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let tasks = (0..callers).map(|_| {
        let mut call = caller();
        async move {
            let mut calls = 0_u64;
            while begun.elapsed() < TIME {
                call(calls).await;
                calls += 1;
            }
            calls
        }
    });
    let calls: u64 = join_all(tasks).await.into_iter().sum();
    calls as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn rates() {
    // An empty server of its own where there is no real one: FerretDB reads everything that it has.
    let (own, shared);
    let (uri, database) = if std::env::var_os(runmesh_servers::MONGODB_VARIABLE).is_none() {
        own = MongoLike::start().unwrap();
        (own.uri(), "runmesh".to_owned())
    } else {
        shared = TestDatabase::new();
        (shared.config("").uri, shared.config("").database.unwrap())
    };
    let store = MongoStore::open(config(&uri, &database, "process")).await.unwrap();
    for writers in [1, 8, 64] {
        let appends = rate(writers, || {
            let (store, mut log) = (store.clone(), AggregateId::from(String::new()));
            move |call| {
                if call % LOG == 0 {
                    log = Uuid::now_v7().to_string().into();
                }
                let (store, log) = (store.clone(), log.clone());
                async move {
                    store.append(&log, Expected::Sequence(call % LOG), vec![event(call)]).await.unwrap();
                }
            }
        })
        .await;
        println!("{writers:>3} writers: {appends:>7.0} appends/s");
    }
    for batch in [1, 10, 100] {
        let log = AggregateId::from(format!("batches of {batch}"));
        let appends = rate(1, || {
            let (store, log) = (store.clone(), log.clone());
            move |_| {
                let (store, log) = (store.clone(), log.clone());
                async move { drop(store.append(&log, Expected::Any, (0..batch).map(event).collect()).await.unwrap()) }
            }
        })
        .await;
        println!("one log, batches of {batch:>3}: {:>7.0} events/s", appends * f64::from(batch));
    }
    let reads = rate(1, || {
        let store = store.clone();
        move |_| {
            let store = store.clone();
            async move { drop(store.read(&AggregateId::from("batches of 10"), 0, 100, &[]).await.unwrap()) }
        }
    })
    .await;
    println!("reads of 100 events: {reads:.0}/s");
    let begun = Instant::now();
    let (mut after, mut count) = (Position(0), 0);
    while begun.elapsed() < TIME {
        let page = store.scan(&Filter::default(), after, 4_096).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.position;
        count += page.len();
    }
    println!("scan: {:.0} events/s", f64::from(u32::try_from(count).unwrap()) / begun.elapsed().as_secs_f64());
    let jobs = Documents::<Job>::open(Arc::new(store)).await.unwrap();
    for writers in [1, 8, 64] {
        let puts = rate(writers, || {
            let jobs = jobs.clone();
            move |_| {
                let jobs = jobs.clone();
                async move {
                    let job = Job::new(Uuid::now_v7(), "ann", 1);
                    let revision = jobs.insert(&job).await.unwrap();
                    jobs.update(&job, revision).await.unwrap();
                }
            }
        })
        .await;
        println!("{writers:>3} writers: {:>7.0} writes of documents/s", puts * 2.0);
    }
}
