//! Calls are spread over the servers.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::server::{Server, create, get, good, quick, until, upstream};

#[tokio::test]
async fn three_servers_get_about_as_many_calls_each() {
    let servers = [Server::good().await, Server::good().await, Server::good().await];
    let upstream = upstream(&servers.each_ref(), &quick());
    futures::stream::iter(0..600).for_each_concurrent(30, |_| async { drop(get(&upstream).await.unwrap()) }).await;
    let counts = servers.each_ref().map(Server::calls);
    assert_eq!(counts.iter().sum::<usize>(), 600);
    assert!(counts.iter().all(|count| (100..=320).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn a_server_that_takes_its_time_gets_fewer_calls() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let slow = Server::start(move |_| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            good()
        }
    })
    .await;
    let (one, other) = (Server::good().await, Server::good().await);
    let upstream = upstream(&[&slow, &one, &other], &quick());
    let calls = futures::stream::iter(0..300).map(|_| get(&upstream)).buffer_unordered(10);
    let mut calls = std::pin::pin!(calls);
    // What the slow one has holds up nobody else.
    for _ in 0..200 {
        tokio::time::timeout(Duration::from_secs(20), calls.next()).await.unwrap().unwrap().unwrap();
    }
    assert!(slow.calls() <= 10, "{} calls wait at the slow server", slow.calls());
    gate.add_permits(300);
    while let Some(call) = calls.next().await {
        call.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_accepts_connections_and_says_nothing_is_passed_over() {
    // Its system accepts connections for a process that does not run, as one that was stopped by SIGSTOP.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::good().await;
    let config = runmesh_rpc::client::UpstreamConfig {
        connect_timeout: Duration::from_secs(2),
        ejection_time: Duration::from_secs(60),
        ..quick()
    };
    let addresses = format!("{},{}", silent.local_addr().unwrap(), server.address).parse().unwrap();
    let upstream = runmesh_rpc::client::Upstream::new("test", &addresses, &config);
    for _ in 0..20 {
        create(&upstream, "").await.unwrap();
    }
    assert_eq!(server.calls(), 20);
    assert!(upstream.check().await.is_ok());
}

#[tokio::test]
async fn more_streams_than_a_connection_takes_are_spread_over_several() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let server = Server::start(move |_| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            good()
        }
    })
    .await;
    let upstream = upstream(&[&server], &quick());
    // A connection takes 1,024.
    let calls: Vec<_> = (0..1500)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { get(&upstream).await })
        })
        .collect();
    until(async || server.calls() == 1500).await;
    gate.add_permits(1500);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
