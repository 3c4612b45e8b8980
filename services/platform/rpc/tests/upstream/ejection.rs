//! Servers that fail are left out, and come back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use runmesh_rpc::{client::UpstreamConfig, status};

use crate::server::{Server, get, good, quick, until, upstream};

/// A server that works while the switch is on.
async fn switched(works: &Arc<AtomicBool>) -> Server {
    let works = Arc::clone(works);
    Server::start(move |_| {
        let works = works.load(Ordering::SeqCst);
        async move { if works { good() } else { status::unavailable("no", Duration::ZERO).into_http() } }
    })
    .await
}

#[tokio::test]
async fn a_failing_server_is_left_out_and_comes_back_when_it_works() {
    let works = Arc::new(AtomicBool::new(false));
    let (failing, server) = (switched(&works).await, Server::good().await);
    let config = UpstreamConfig {
        ejection_failures: 5,
        ejection_time: Duration::from_millis(200),
        ejection_maximum: Duration::from_millis(200),
        ..quick()
    };
    let upstream = upstream(&[&failing, &server], &config);
    until(async || {
        get(&upstream).await.unwrap();
        failing.calls() >= 5
    })
    .await;
    // After a time each a single call finds out that nothing has changed.
    let started = std::time::Instant::now();
    for _ in 0..200 {
        get(&upstream).await.unwrap();
    }
    let times = started.elapsed().as_millis() / 200;
    assert!(failing.calls() <= 5 + 1 + usize::try_from(times).unwrap(), "{} calls", failing.calls());

    works.store(true, Ordering::SeqCst);
    let before = failing.calls();
    until(async || {
        get(&upstream).await.unwrap();
        failing.calls() >= before + 10
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_called_again_when_it_is_back() {
    let (first, server) = (Server::good().await, Server::good().await);
    let upstream = upstream(&[&first, &server], &quick());
    until(async || {
        get(&upstream).await.unwrap();
        first.calls() > 0
    })
    .await;
    let address = first.address;
    drop(first);
    for _ in 0..50 {
        get(&upstream).await.unwrap();
    }
    let back = Server::start_at(address, |_| async { good() }).await;
    until(async || {
        get(&upstream).await.unwrap();
        back.calls() > 0
    })
    .await;
}

#[tokio::test]
async fn where_all_servers_are_left_out_all_are_used() {
    let works = Arc::new(AtomicBool::new(false));
    let servers = [switched(&works).await, switched(&works).await];
    let never = Duration::from_secs(3600);
    let config =
        UpstreamConfig { attempts: 1, ejection_failures: 1, ejection_time: never, ejection_maximum: never, ..quick() };
    let upstream = upstream(&servers.each_ref(), &config);
    for calls in 1..=10 {
        get(&upstream).await.unwrap_err();
        assert_eq!(servers.iter().map(Server::calls).sum::<usize>(), calls, "each call reaches a server");
    }
    works.store(true, Ordering::SeqCst);
    get(&upstream).await.unwrap();
}
