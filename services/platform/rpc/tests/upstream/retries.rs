//! What is made again, and what is not.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use runmesh_rpc::{
    client::{Upstream, UpstreamConfig},
    status,
};
use tokio::net::TcpListener;
use tonic::Code;

use crate::server::{Server, create, get, good, quick, until, upstream};

/// The sum of a counter over its labels.
fn counted(snapshotter: &Snapshotter, name: &str) -> u64 {
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.filter(|(key, ..)| key.key().name() == name)
        .map(|(.., value)| if let DebugValue::Counter(count) = value { count } else { 0 })
        .sum()
}

#[tokio::test]
async fn a_server_that_dies_under_load_costs_no_call_that_can_be_repeated() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let pause = || async {
        tokio::time::sleep(Duration::from_millis(3)).await;
        good()
    };
    let start = async || Server::start(move |_| pause()).await;
    let servers = [start().await, start().await, start().await];
    let upstream = upstream(&servers.each_ref(), &quick());
    let [mortal, one, other] = servers;
    let load = tokio::spawn({
        let upstream = upstream.clone();
        async move {
            let calls = futures::stream::iter(0..1500).map(|_| get(&upstream)).buffer_unordered(24);
            calls.filter_map(|result| async { result.err() }).collect::<Vec<_>>().await
        }
    });
    until(async || mortal.calls() >= 100).await;
    drop(mortal);
    let failed = load.await.unwrap();
    assert!(failed.is_empty(), "{} calls failed: {:?}", failed.len(), failed.first());
    assert!(one.calls() + other.calls() > 1000);
    let retries = counted(&snapshotter, "rpc_client_retries_total");
    assert!((1..=100).contains(&retries), "{retries} retries");
}

#[tokio::test]
async fn when_everything_fails_the_budget_bounds_what_servers_see() {
    let fails = || Server::start(|_| async { status::unavailable("no", Duration::ZERO).into_http() });
    let servers = [fails().await, fails().await];
    let config = UpstreamConfig { retry_share: 0.2, retry_burst: 10, ..quick() };
    let upstream = upstream(&servers.each_ref(), &config);
    let calls = 300;
    let results: Vec<_> = futures::stream::iter(0..calls).map(|_| get(&upstream)).buffer_unordered(20).collect().await;
    assert!(results.iter().all(|result| result.as_ref().unwrap_err().code() == Code::Unavailable));
    let seen: usize = servers.iter().map(Server::calls).sum();
    assert!(seen <= calls + calls / 5 + 10, "{seen} attempts for {calls} calls");
    assert!(seen > calls + 10, "the budget is used: {seen} attempts for {calls} calls");
}

#[tokio::test]
async fn a_call_that_was_sent_is_made_again_with_a_request_id_only() {
    for (request_id, repeated) in [("", 0), ("once", 1)] {
        let hangs = || Server::start(|_| std::future::pending());
        let mut servers = vec![hangs().await, hangs().await];
        let upstream = upstream(&[&servers[0], &servers[1]], &quick());
        let call = tokio::spawn({
            let upstream = upstream.clone();
            async move { create(&upstream, request_id).await }
        });
        until(async || servers.iter().any(|server| server.calls() == 1)).await;
        let first = servers.iter().position(|server| server.calls() == 1).unwrap();
        drop(servers.remove(first));
        if repeated == 0 {
            assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
        } else {
            until(async || servers[0].calls() == 1).await;
            call.abort();
        }
        assert_eq!(servers[0].calls(), repeated, "request id {request_id:?}");
    }
}

#[tokio::test]
async fn unavailable_is_made_again_only_where_that_is_harmless() {
    let server = Server::start(|_| async { status::unavailable("no", Duration::ZERO).into_http() }).await;
    let upstream = upstream(&[&server], &UpstreamConfig { ejection_failures: 1000, ..quick() });
    for (call, attempts) in [(create(&upstream, "").await.err(), 1), (create(&upstream, "a").await.err(), 3)] {
        assert_eq!(call.unwrap().code(), Code::Unavailable);
        let before = server.calls();
        assert!(before >= attempts);
    }
    assert_eq!(server.calls(), 1 + 3);
    assert_eq!(get(&upstream).await.unwrap_err().message(), "no", "the server's own words");
    assert_eq!(server.calls(), 1 + 3 + 3);
}

#[tokio::test]
async fn other_errors_are_not_made_again() {
    let server = Server::start(|_| async { status::not_found("result", "id").into_http() }).await;
    let upstream = upstream(&[&server], &quick());
    assert_eq!(get(&upstream).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_call_that_found_no_connection_goes_elsewhere_whatever_it_is() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let server = Server::good().await;
    // Each time the dead one is tried again first.
    let config = UpstreamConfig { retry_share: 0.0, retry_burst: 0, ..quick() };
    for _ in 0..20 {
        let addresses = format!("{address},{}", server.address).parse().unwrap();
        create(&Upstream::new("test", &addresses, &config), "").await.unwrap();
    }
    assert_eq!(server.calls(), 20);

    let nobody = Upstream::new("test", &address.to_string().parse().unwrap(), &config);
    let status = create(&nobody, "").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "test can't be reached"));
    let words = nobody.check().await.unwrap_err().to_string();
    assert!(words.contains(&address.to_string()), "{words}");
}

#[tokio::test]
async fn a_call_that_a_server_refused_to_take_goes_elsewhere_whatever_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    let refused = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&refused);
    let refuse = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    let server = Server::good().await;
    let addresses = format!("{refusing},{}", server.address).parse().unwrap();
    let upstream = Upstream::new("test", &addresses, &quick());
    for _ in 0..40 {
        create(&upstream, "").await.unwrap();
    }
    assert_eq!(server.calls(), 40);
    assert!(refused.load(std::sync::atomic::Ordering::SeqCst) > 0, "the server was never asked");
    refuse.abort();
}
