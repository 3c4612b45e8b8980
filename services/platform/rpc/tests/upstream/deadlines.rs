//! Deadlines are passed on.

use std::{sync::atomic::AtomicUsize, sync::atomic::Ordering, time::Duration};

use runmesh_proto::{
    execution::{WaitExecutionRequest, WatchExecutionRequest, execution_service_client::ExecutionServiceClient},
    result::{GetResultRequest, result_service_client::ResultServiceClient},
};
use runmesh_rpc::{client::Upstream, client::UpstreamConfig, status};
use tonic::{Code, Request, Status};

use crate::server::{Server, get, good, quick, upstream};

async fn get_within(upstream: &Upstream, timeout: Duration) -> Result<(), Status> {
    let mut request = Request::new(GetResultRequest::default());
    request.set_timeout(timeout);
    ResultServiceClient::new(upstream.clone()).get_result(request).await.map(drop)
}

/// The deadlines that a server saw, as times.
fn timeouts(server: &Server) -> Vec<Option<Duration>> {
    let texts = server.seen.timeouts.lock().unwrap().clone();
    let time = |text: String| match text.split_at(text.len() - 1) {
        (number, "u") => Duration::from_micros(number.parse().unwrap()),
        (number, "m") => Duration::from_millis(number.parse().unwrap()),
        _ => panic!("{text}"),
    };
    texts.into_iter().map(|text| text.map(time)).collect()
}

#[tokio::test]
async fn a_deadline_goes_on_less_what_has_passed() {
    let calls = AtomicUsize::new(0);
    let pause = Duration::from_millis(300);
    let server = Server::start(move |_| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        async move { if first { status::unavailable("later", pause).into_http() } else { good() } }
    })
    .await;
    let upstream = upstream(&[&server], &quick());
    let given = Duration::from_secs(20);
    get_within(&upstream, given).await.unwrap();
    let [Some(first), Some(second)] = timeouts(&server)[..] else { panic!("not two deadlines") };
    assert!(first <= given && first > given / 2, "{first:?}");
    assert!(second <= given - pause, "{second:?}: the pause that the server asked for was kept, and is taken off");
}

#[tokio::test]
async fn calls_without_a_deadline_get_one_streams_and_waiting_calls_do_not() {
    let server = Server::good().await;
    let upstream = upstream(&[&server], &UpstreamConfig { timeout: Some(Duration::from_secs(7)), ..quick() });
    let mut client = ExecutionServiceClient::new(upstream.clone());
    get(&upstream).await.unwrap();
    client.watch_execution(WatchExecutionRequest::default()).await.unwrap();
    client.wait_execution(WaitExecutionRequest::default()).await.unwrap();
    let [Some(unary), None, None] = timeouts(&server)[..] else { panic!("{:?}", timeouts(&server)) };
    assert!(unary <= Duration::from_secs(7) && unary > Duration::from_secs(3), "{unary:?}");
}

#[tokio::test]
async fn a_server_that_hangs_does_not_hold_a_call_beyond_its_deadline() {
    let server = Server::start(|_| std::future::pending()).await;
    let upstream = upstream(&[&server], &quick());
    let status = get_within(&upstream, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);

    // A pause that would end after the deadline is not begun.
    let busy = Server::start(|_| async { status::unavailable("later", Duration::from_secs(4)).into_http() }).await;
    let upstream = crate::server::upstream(&[&busy], &quick());
    let status = get_within(&upstream, Duration::from_secs(3)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "later"));
    assert_eq!(busy.calls(), 1);
}

#[tokio::test]
async fn a_deadline_of_another_form_is_refused() {
    let server = Server::good().await;
    let upstream = upstream(&[&server], &quick());
    let mut request = Request::new(GetResultRequest::default());
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = ResultServiceClient::new(upstream).get_result(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(server.calls(), 0);
}
