//! Server-streams as Server-Sent Events.

use std::{sync::atomic::Ordering, time::Duration};

use eventsource_stream::{Event, Eventsource as _};
use futures::{Stream, StreamExt as _};
use reqwest::{Response, StatusCode};
use runmesh_gateway::GatewayConfig;
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::fake::{self, Running};

const PATIENCE: Duration = Duration::from_secs(60);

fn events(response: Response) -> impl Stream<Item = Event> + Unpin {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    Box::pin(response.bytes_stream().eventsource().map(Result::unwrap))
}

async fn all(response: Response) -> Vec<Event> {
    timeout(PATIENCE, events(response).collect()).await.unwrap()
}

async fn watch_after(mesh: &Running, path: &str, last_event_id: &str) -> Response {
    mesh.http.get(format!("{}{path}", mesh.url)).header("last-event-id", last_event_id).send().await.unwrap()
}

fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

/// Reads from a body until it has `text`, and returns all that was read.
async fn read_until(response: &mut Response, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = timeout(PATIENCE, response.chunk()).await.unwrap().unwrap();
        read.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("ended: {read}"))).unwrap());
    }
    read
}

#[tokio::test]
async fn a_stream_is_framed_with_cursor_name_and_one_line_of_json_and_ends_with_end() {
    let mesh = Running::open().await;
    let response = mesh.get("/v1/executions/17:watch").await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let text = response.text().await.unwrap();
    assert!(text.starts_with("retry: 1000\n: "), "{text}");
    assert_eq!(text.matches("\n\n").count(), 5);

    let events = all(mesh.get("/v1/executions/17:watch").await).await;
    assert_eq!(ids(&events), ["1", "2", "3", "end"]);
    let names: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["event", "event", "event", "end"]);
    let first: Value = serde_json::from_str(&events[0].data).unwrap();
    assert_eq!(first["cursor"], "1");
    assert_eq!(first["event"]["executionOutput"]["data"], "/wrw", "bytes that are not UTF-8 survive");
    assert_eq!(first["event"]["executionOutput"]["offset"], "0");
    let last: Value = serde_json::from_str(&events[3].data).unwrap();
    assert_eq!(last["end"]["execution"]["executionId"], "17");
}

#[tokio::test]
async fn a_stream_resumes_after_the_query_or_the_header_and_the_header_wins() {
    let mesh = Running::open().await;
    let by_query = all(mesh.get("/v1/executions/17:watch?cursor=2").await).await;
    assert_eq!(ids(&by_query), ["3", "end"]);
    let by_header = all(watch_after(&mesh, "/v1/executions/17:watch", "1").await).await;
    assert_eq!(ids(&by_header), ["2", "3", "end"]);
    let both = all(watch_after(&mesh, "/v1/executions/17:watch?cursor=1", "3").await).await;
    assert_eq!(ids(&both), ["end"]);
    let twice = mesh.get("/v1/executions/17:watch?cursor=1&cursor=2").await;
    assert_eq!(twice.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn coming_back_after_the_end_is_204() {
    let mesh = Running::open().await;
    let response = watch_after(&mesh, "/v1/executions/17:watch", "end").await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn an_error_before_the_first_message_has_its_own_status() {
    let mesh = Running::open().await;
    let response = mesh.get("/v1/executions/missing:watch").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(mesh.get("/v1/executions/17:watch?nope=1").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_stream_that_failed_never_looks_like_one_that_ended() {
    let mesh = Running::open().await;
    for (id, detail) in [("breaks", "restarting"), ("truncated", "before its last event")] {
        let events = all(mesh.get(&format!("/v1/executions/{id}:watch")).await).await;
        let names: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
        assert_eq!(names, ["event", "error"], "{id}");
        let problem: Value = serde_json::from_str(&events[1].data).unwrap();
        assert_eq!(problem["code"], "UNAVAILABLE");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
}

#[tokio::test]
async fn an_idle_stream_starts_at_once_and_shows_that_it_is_alive() {
    let config = GatewayConfig { heartbeat: Duration::from_millis(20), ..Default::default() };
    let mesh = Running::start(config).await;
    let mut response = mesh.get("/v1/executions/idle:watch").await;
    assert_eq!(response.status(), StatusCode::OK);
    read_until(&mut response, ": heartbeat\n\n: heartbeat\n\n").await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_call_behind_it() {
    let mesh = Running::open().await;
    let mut response = mesh.get("/v1/executions/late:watch").await;
    read_until(&mut response, "id: 1").await;
    drop(response);
    timeout(PATIENCE, mesh.seen.dropped.notified()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_no_more_stops_its_stream() {
    let (router, seen) = fake::router().await;
    let request = http::Request::get("/v1/executions/endless:watch").body(axum::body::Body::empty()).unwrap();
    let mut frames = router.oneshot(request).await.unwrap().into_body().into_data_stream();
    for _ in 0..10 {
        frames.next().await.unwrap().unwrap();
    }
    // Nothing runs ahead of the reader but what fits in one buffer of the transport.
    let produced = seen.produced.load(Ordering::SeqCst);
    assert!((9..2000).contains(&produced), "{produced}");
}

#[tokio::test]
async fn coming_back_after_the_end_to_a_slow_service_is_no_error() {
    let mesh = Running::start(GatewayConfig { first_message_wait: Duration::ZERO, ..Default::default() }).await;
    let response = watch_after(&mesh, "/v1/executions/slow:watch", "end").await;
    mesh.seen.release.notify_one();
    let events = all(response).await;
    assert_eq!(ids(&events), [""; 0]);
}

#[tokio::test]
async fn a_drain_tells_clients_to_come_back_and_ends() {
    let mesh = Running::open().await;
    let streams = events(mesh.get("/v1/executions/late:watch").await);
    let endless = events(mesh.get("/v1/executions/endless:watch").await);
    let mut streams = futures::stream::select(streams, endless);
    streams.next().await.unwrap();
    mesh.stop();
    let told = timeout(PATIENCE, streams.filter(|event| std::future::ready(event.event == "reconnect")).count());
    assert_eq!(told.await.unwrap(), 2);
    mesh.ended().await;
}

#[tokio::test]
async fn a_token_may_be_in_the_query_of_a_stream() {
    let mesh = Running::closed().await;
    assert_eq!(mesh.get("/v1/executions/17:watch").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(mesh.get("/v1/executions/17:watch?access_token=wrong").await.status(), StatusCode::UNAUTHORIZED);
    let events = all(mesh.get("/v1/executions/17:watch?access_token=s3cret&cursor=3").await).await;
    assert_eq!(ids(&events), ["end"]);
}
