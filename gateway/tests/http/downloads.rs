//! Streams of `google.api.HttpBody` as files.

use std::{sync::atomic::Ordering, time::Duration};

use futures::StreamExt as _;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tower::ServiceExt as _;

use crate::fake::{self, Running};

const PATIENCE: Duration = Duration::from_secs(60);
const FIRST: &str = "{\"first\":1}\n";

fn path(text: &str) -> String {
    format!("/v1/deadLetters:export?filter.text={text}")
}

/// Reads until the first line has come.
async fn first_line(response: &mut Response) {
    let mut read = Vec::new();
    while read.len() < FIRST.len() {
        read.extend(timeout(PATIENCE, response.chunk()).await.unwrap().unwrap().expect("it ended"));
    }
    assert_eq!(read, FIRST.as_bytes());
}

#[tokio::test]
async fn a_stream_is_a_file_of_all_its_data_with_the_first_messages_type() {
    let mesh = Running::open().await;
    let response = mesh.get(&path("all")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers();
    assert_eq!(headers["content-type"], "application/x-ndjson");
    assert_eq!(headers["content-disposition"], "attachment; filename=\"dead-letters.ndjson\"");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers.get("content-length"), None);
    assert_eq!(response.text().await.unwrap(), format!("{FIRST}2\n3\n"));
}

#[tokio::test]
async fn a_stream_without_messages_is_an_empty_file() {
    let mesh = Running::open().await;
    let response = mesh.get(&path("empty")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"dead-letters.bin\"");
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn an_error_before_the_first_message_is_a_problem_with_its_status() {
    let mesh = Running::open().await;
    for (text, status) in [("refused", 400), ("fails", 404), ("strange", 500)] {
        let response = mesh.get(&path(text)).await;
        assert_eq!(response.status().as_u16(), status, "{text}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers().get("content-disposition"), None);
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status);
    }
    assert_eq!(mesh.get("/v1/deadLetters:export?nope=1").await.status(), StatusCode::BAD_REQUEST);
    let request = mesh.http.get(format!("{}{}", mesh.url, path("hangs"))).header("grpc-timeout", "100m");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_transfer_that_is_cut_never_looks_like_one_that_ended() {
    let mesh = Running::open().await;
    // The second one ends without the status that says how.
    for text in ["breaks", "cut", "late"] {
        let request = mesh.http.get(format!("{}{}", mesh.url, path(text))).header("grpc-timeout", "3S");
        let whole = async {
            // What fails at once may be cut before the head is sent.
            let response = request.send().await?;
            assert_eq!(response.status(), StatusCode::OK);
            response.bytes().await
        };
        timeout(PATIENCE, whole).await.unwrap().expect_err(text);
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_could_not_tell_a_cut_and_is_refused() {
    let mesh = Running::open().await;
    let mut connection = TcpStream::connect(mesh.url.trim_start_matches("http://")).await.unwrap();
    let request = format!("GET {} HTTP/1.0\r\nhost: localhost\r\n\r\n", path("breaks"));
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.0 505 "), "{answer}");
    assert!(answer.contains("HTTP_VERSION_NOT_SUPPORTED"), "{answer}");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_call_behind_it() {
    let mesh = Running::open().await;
    let mut response = mesh.get(&path("late")).await;
    first_line(&mut response).await;
    drop(response);
    timeout(PATIENCE, mesh.seen.dropped.notified()).await.unwrap();

    // Also one that has not got an answer yet.
    let waits = mesh.http.get(format!("{}{}", mesh.url, path("hangs"))).timeout(Duration::from_secs(3));
    assert!(waits.send().await.unwrap_err().is_timeout());
    timeout(PATIENCE, mesh.seen.dropped.notified()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_no_more_stops_its_stream() {
    let (router, seen) = fake::router().await;
    let request = http::Request::get(path("endless")).body(axum::body::Body::empty()).unwrap();
    let mut frames = router.oneshot(request).await.unwrap().into_body().into_data_stream();
    for _ in 0..10 {
        frames.next().await.unwrap().unwrap();
    }
    // Nothing runs ahead of the reader but what fits in one buffer of the transport.
    let produced = seen.produced.load(Ordering::SeqCst);
    assert!((9..5000).contains(&produced), "{produced}");
}

#[tokio::test]
async fn a_drain_lets_a_download_come_to_its_end() {
    let mesh = Running::open().await;
    let mut response = mesh.get(&path("waits")).await;
    first_line(&mut response).await;
    mesh.stop();
    // It refuses new work from now on.
    let address = mesh.url.trim_start_matches("http://").to_owned();
    timeout(PATIENCE, async { while TcpStream::connect(&address).await.is_ok() {} }).await.unwrap();
    mesh.seen.release.notify_one();
    assert_eq!(timeout(PATIENCE, response.text()).await.unwrap().unwrap(), "2\n");
    mesh.ended().await;
}

#[tokio::test]
async fn a_link_may_have_the_token_in_its_query() {
    let mesh = Running::closed().await;
    assert_eq!(mesh.get(&path("all")).await.status(), StatusCode::UNAUTHORIZED);
    let with = |token: &str| format!("{}&access_token={token}", path("all"));
    assert_eq!(mesh.get(&with("wrong")).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(mesh.get(&with("s3cret")).await.text().await.unwrap(), format!("{FIRST}2\n3\n"));
}

#[tokio::test]
async fn other_methods_are_refused_and_what_is_accepted_changes_nothing() {
    let mesh = Running::open().await;
    let url = format!("{}{}", mesh.url, path("all"));
    for method in [Method::HEAD, Method::POST] {
        let response = mesh.http.request(method, &url).send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["allow"]),
            (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse().unwrap())
        );
    }
    let response = mesh.http.get(&url).header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
}
