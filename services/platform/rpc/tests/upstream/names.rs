//! Names stand for servers, which come and go.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use runmesh_rpc::client::{Resolve, Upstream, UpstreamConfig};
use tokio::sync::Semaphore;

use crate::server::{Server, create, get, good, quick, until};

/// Says what the test says.
#[derive(Debug, Default)]
struct Names(Mutex<Vec<SocketAddr>>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        assert_eq!(name, "servers.test");
        let found = self.0.lock().unwrap().clone();
        Box::pin(async move { if found.is_empty() { Err(io::Error::other("no such name")) } else { Ok(found) } })
    }
}

fn named(names: &Arc<Names>) -> Upstream {
    let config = UpstreamConfig { resolve_interval: Duration::from_secs(1), ..quick() };
    Upstream::with_resolver("test", &"dns://servers.test:7300".parse().unwrap(), &config, names.clone())
}

#[tokio::test]
async fn all_addresses_of_a_name_are_servers_and_new_ones_are_found() {
    let servers = [Server::good().await, Server::good().await, Server::good().await];
    let names = Arc::new(Names::default());
    let say = |servers: &[Server]| *names.0.lock().unwrap() = servers.iter().map(|server| server.address).collect();
    say(&servers[..2]);
    let upstream = named(&names);
    until(async || {
        get(&upstream).await.unwrap();
        servers[0].calls() > 0 && servers[1].calls() > 0
    })
    .await;
    assert_eq!(servers[2].calls(), 0);
    say(&servers);
    until(async || {
        get(&upstream).await.unwrap();
        servers[2].calls() > 0
    })
    .await;
}

#[tokio::test]
async fn a_server_that_the_name_has_lost_gets_no_more_calls_and_ends_those_that_it_has() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let old = Server::start(move |_| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            good()
        }
    })
    .await;
    // Has more calls on their way than the old one, so that a channel that knew both would prefer the old one.
    let (hold, held) = (Arc::new(AtomicBool::new(false)), Arc::clone(&gate));
    let holds = Arc::clone(&hold);
    let new = Server::start(move |_| {
        let hangs = holds.load(Ordering::SeqCst);
        let gate = Arc::clone(&held);
        async move {
            if hangs {
                gate.acquire().await.unwrap().forget();
            }
            good()
        }
    })
    .await;
    let names = Arc::new(Names(Mutex::new(vec![old.address])));
    let upstream = named(&names);
    let begin = || {
        let upstream = upstream.clone();
        tokio::spawn(async move { create(&upstream, "").await })
    };
    let begun = begin();
    until(async || old.calls() == 1).await;
    *names.0.lock().unwrap() = vec![new.address];
    // A call that goes to the old one hangs there.
    until(async || {
        let patience = Duration::from_secs(1);
        tokio::time::timeout(patience, get(&upstream)).await.is_ok_and(|result| result.is_ok())
    })
    .await;
    let (calls, before) = (old.calls(), new.calls());
    hold.store(true, Ordering::SeqCst);
    let more = [begin(), begin(), begin()];
    until(async || new.calls() == before + 3).await;
    hold.store(false, Ordering::SeqCst);
    for _ in 0..20 {
        get(&upstream).await.unwrap();
    }
    assert_eq!(old.calls(), calls);
    gate.add_permits(calls + 3);
    for call in [begun].into_iter().chain(more) {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_name_that_can_not_be_resolved_any_more_keeps_its_servers() {
    let server = Server::good().await;
    let names = Arc::new(Names(Mutex::new(vec![server.address])));
    let upstream = named(&names);
    get(&upstream).await.unwrap();
    names.0.lock().unwrap().clear();
    let started = std::time::Instant::now();
    until(async || {
        get(&upstream).await.unwrap();
        started.elapsed() > Duration::from_millis(1500)
    })
    .await;
}

#[tokio::test]
async fn a_name_that_is_not_known_yet_is_waited_for() {
    let server = Server::good().await;
    let names = Arc::new(Names::default());
    let upstream = named(&names);
    let call = tokio::spawn({
        let upstream = upstream.clone();
        async move { create(&upstream, "").await }
    });
    tokio::task::yield_now().await;
    *names.0.lock().unwrap() = vec![server.address];
    call.await.unwrap().unwrap();

    let unknown = named(&Arc::default());
    let status = create(&unknown, "").await.unwrap_err();
    assert_eq!(status.message(), "test can't be reached");
}
