//! The gRPC service.

use futures::StreamExt as _;
use runmesh_event_log::EventLogService;
use runmesh_events::{to_duration, to_timestamp};
use runmesh_proto::event_log::{VerifyRequest, event_log_service_server::EventLogService as _, verify_response::Item};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use crate::mesh::Mesh;

async fn service(mesh: &Mesh) -> (EventLogService, CancellationToken) {
    let shutdown = CancellationToken::new();
    (EventLogService::build(mesh.verifier().await, shutdown.clone()).await.unwrap(), shutdown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_verification_runs_at_a_time_and_one_that_is_dropped_gives_way() {
    let mesh = Mesh::new();
    mesh.run(1).await;
    let (service, _shutdown) = service(&mesh).await;
    let mut first = service.verify(Request::new(VerifyRequest::default())).await.unwrap().into_inner();
    assert!(first.next().await.unwrap().is_ok());
    let refused = service.verify(Request::new(VerifyRequest::default())).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    let messages = service.verify(Request::new(VerifyRequest::default())).await.unwrap().into_inner();
    let messages: Vec<_> = messages.map(Result::unwrap).collect().await;
    let last = messages.last().unwrap();
    assert!(matches!(last.item, Some(Item::End(_))), "{last:?}");
    // After the end it is free again, and the end's cursor asks for nothing.
    let again = VerifyRequest { cursor: last.cursor.clone(), ..Default::default() };
    assert_eq!(service.verify(Request::new(again)).await.unwrap().into_inner().count().await, 0);
    assert!(service.verify(Request::new(VerifyRequest::default())).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_the_stream_with_an_error() {
    let mesh = Mesh::new();
    let (service, shutdown) = service(&mesh).await;
    let mut messages = service.verify(Request::new(VerifyRequest::default())).await.unwrap().into_inner();
    assert!(messages.next().await.unwrap().is_ok());
    shutdown.cancel();
    assert_eq!(messages.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(messages.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_that_are_not_acceptable_are_named() {
    let mesh = Mesh::new();
    let (service, _shutdown) = service(&mesh).await;
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let long = to_duration(std::time::Duration::from_secs(24 * 60 * 60 + 1));
    for (field, request) in [
        ("since", VerifyRequest { since: Some(to_timestamp(later)), ..Default::default() }),
        (
            "since",
            VerifyRequest { since: Some(prost_types::Timestamp { seconds: -1, nanos: 0 }), ..Default::default() },
        ),
        ("patience", VerifyRequest { patience: Some(negative), ..Default::default() }),
        ("patience", VerifyRequest { patience: Some(long), ..Default::default() }),
        ("max_findings", VerifyRequest { max_findings: -1, ..Default::default() }),
        ("max_findings", VerifyRequest { max_findings: 10_001, ..Default::default() }),
        ("cursor", VerifyRequest { cursor: "17".to_owned(), ..Default::default() }),
    ] {
        let status = service.verify(Request::new(request)).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        assert!(status.message().starts_with(field), "{}", status.message());
    }
    // None of them has taken the turn.
    assert!(service.verify(Request::new(VerifyRequest::default())).await.is_ok());
}
