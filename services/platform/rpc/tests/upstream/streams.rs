//! Server-streams.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use runmesh_proto::execution::{WatchExecutionRequest, execution_service_client::ExecutionServiceClient};
use runmesh_rpc::status;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use crate::server::{Server, messages, quick, upstream};

const EMPTY: Bytes = Bytes::from_static(&[0; 5]);

#[tokio::test]
async fn a_stream_that_has_begun_is_not_made_again() {
    let gate = Arc::new(Semaphore::new(0));
    let breaks = || {
        let gate = Arc::clone(&gate);
        Server::start(move |_| {
            let gate = Arc::clone(&gate);
            // Ends without a frame when the gate opens.
            let waits = futures::stream::once(async move { gate.acquire().await.unwrap().forget() })
                .filter_map(|()| std::future::ready(None));
            async move { messages(futures::stream::iter([EMPTY, EMPTY]).chain(waits), None) }
        })
    };
    let servers = [breaks().await, breaks().await];
    let upstream = upstream(&servers.each_ref(), &quick());
    let mut client = ExecutionServiceClient::new(upstream);
    let mut stream = client.watch_execution(WatchExecutionRequest::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    assert!(stream.message().await.unwrap().is_some());
    gate.add_permits(1);
    assert!(stream.message().await.is_err(), "a broken stream never looks like one that ended");
    assert_eq!(servers.iter().map(Server::calls).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_stream_that_never_began_is_made_again_elsewhere() {
    let refuses = Server::start(|_| async { status::unavailable("no", Duration::ZERO).into_http() }).await;
    let server =
        Server::start(|_| async { messages(futures::stream::iter([EMPTY]), Some(Status::new(Code::Ok, ""))) }).await;
    let upstream = upstream(&[&refuses, &server], &quick());
    for _ in 0..10 {
        let mut client = ExecutionServiceClient::new(upstream.clone());
        let stream = client.watch_execution(WatchExecutionRequest::default()).await.unwrap().into_inner();
        let all: Vec<_> = stream.collect().await;
        assert_eq!(all.len(), 1);
        all[0].as_ref().unwrap();
    }
    assert_eq!(server.calls(), 10);
    assert!(refuses.calls() > 0, "the server was never asked");
}

#[tokio::test]
async fn a_server_that_is_gone_ends_its_streams_as_unavailable() {
    let server =
        Server::start(|_| async { messages(futures::stream::iter([EMPTY]).chain(futures::stream::pending()), None) })
            .await;
    let upstream = upstream(&[&server], &quick());
    let mut client = ExecutionServiceClient::new(upstream);
    let mut stream = client.watch_execution(WatchExecutionRequest::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop(server);
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled_at_its_server() {
    let (dropped, mut gone) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |_| {
        let guard = OnDrop(dropped.clone());
        async move {
            let rest = futures::stream::pending().map(move |data| {
                let _guard = &guard;
                data
            });
            messages(futures::stream::iter([EMPTY]).chain(rest), None)
        }
    })
    .await;
    let upstream = upstream(&[&server], &quick());
    let mut client = ExecutionServiceClient::new(upstream.clone());
    let mut stream = client.watch_execution(WatchExecutionRequest::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    drop(stream);
    tokio::time::timeout(Duration::from_secs(20), gone.recv()).await.unwrap().unwrap();
}

struct OnDrop(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
