//! A whole server, over the local transport and over a socket.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use runmesh_proto::result::{
    GetResultRequest, GetResultResponse, Result as RunResult,
    result_service_client::ResultServiceClient,
    result_service_server::{ResultService, ResultServiceServer},
};
use runmesh_rpc::{
    AccessPolicy, Credentials, Limits, MAX_REQUEST_BYTES, REQUEST_TOO_LARGE, RpcServer, SERVER_OVERLOADED, Secret,
    ServerConfig, caller_of, status, trace_of,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

struct Results;

#[tonic::async_trait]
impl ResultService for Results {
    async fn get_result(&self, request: Request<GetResultRequest>) -> Result<Response<GetResultResponse>, Status> {
        let (trace, caller) = (trace_of(&request), caller_of(&request));
        match request.into_inner().execution_id.as_str() {
            "slow" => std::future::pending().await,
            "bug" => Err(status::internal(&std::io::Error::other("the cause"))),
            "" => Err(status::invalid_argument("execution_id", "is empty")),
            id => Ok(Response::new(GetResultResponse {
                result: Some(RunResult {
                    execution_id: id.to_owned(),
                    error_message: format!("{:032x} {:?}", trace.trace_id(), caller.user_id),
                    ..Default::default()
                }),
            })),
        }
    }
}

fn server(token: Option<&str>) -> RpcServer {
    let access = AccessPolicy { token: token.map(Secret::new) };
    RpcServer::builder(ServerConfig { access, ..ServerConfig::default() })
        .add_service(ResultServiceServer::new(Results).max_decoding_message_size(MAX_REQUEST_BYTES))
        .build()
}

fn get(id: &str) -> GetResultRequest {
    GetResultRequest { execution_id: id.to_owned() }
}

struct Running {
    channel: Channel,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

async fn start(server: RpcServer, drain: Duration) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.serve(
        listener,
        async {
            let _ = stopped.await;
        },
        drain,
    ));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Running { channel, stop, task }
}

#[tokio::test]
async fn calls_work_alike_over_the_local_transport_and_over_a_socket() {
    let server = server(None);
    let running = start(server.clone(), Duration::from_secs(5)).await;
    let mut local = ResultServiceClient::new(server.local());
    let mut remote = ResultServiceClient::new(running.channel.clone());
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = |id| {
        let mut request = Request::new(get(id));
        request.metadata_mut().insert("traceparent", trace.parse().unwrap());
        request
    };
    let answers = [local.get_result(request("a")).await.unwrap(), remote.get_result(request("a")).await.unwrap()];
    for answer in answers {
        let result = answer.into_inner().result.unwrap();
        assert_eq!(result.error_message, "4bf92f3577b34da6a3ce929d0e0e4736 \"\"");
    }
    for error in [local.get_result(get("")).await.unwrap_err(), remote.get_result(get("")).await.unwrap_err()] {
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.get_details_bad_request().unwrap().field_violations[0].field, "execution_id");
    }
    running.stop.send(()).unwrap();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn with_a_token_a_call_without_it_is_unauthenticated_health_aside() {
    let server = server(Some("s3cret"));
    let error = ResultServiceClient::new(server.local()).get_result(get("a")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert_eq!(error.get_details_error_info().unwrap().reason, "UNAUTHENTICATED");

    let credentials = Credentials::new(Some(&Secret::new("s3cret"))).unwrap();
    ResultServiceClient::with_interceptor(server.local(), credentials).get_result(get("a")).await.unwrap();
    HealthClient::new(server.local()).check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_request_over_the_limit_says_so_with_the_limit() {
    let server = server(None);
    let running = start(server.clone(), Duration::from_secs(5)).await;
    let huge = "x".repeat(MAX_REQUEST_BYTES);
    let mut local = ResultServiceClient::new(server.local());
    let mut remote = ResultServiceClient::new(running.channel);
    for error in [local.get_result(get(&huge)).await.unwrap_err(), remote.get_result(get(&huge)).await.unwrap_err()] {
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        assert_eq!(error.get_details_error_info().unwrap().reason, REQUEST_TOO_LARGE);
        assert!(error.message().contains(&MAX_REQUEST_BYTES.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let mut client = ResultServiceClient::new(server(None).local());
    let mut request = Request::new(get("slow"));
    request.set_timeout(Duration::from_millis(20));
    let error = client.get_result(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn beyond_its_limit_a_server_turns_calls_away_and_takes_them_again_later() {
    let limits = Limits { calls: 2, streams: 1 };
    let server = RpcServer::builder(ServerConfig { limits, ..ServerConfig::default() })
        .add_service(ResultServiceServer::new(Results))
        .build();
    let running = start(server, Duration::from_secs(5)).await;
    let client = ResultServiceClient::new(running.channel.clone());
    let call = |id: &'static str| {
        let mut client = client.clone();
        async move { client.get_result(get(id)).await }
    };
    let hanging = [tokio::spawn(call("slow")), tokio::spawn(call("slow"))];
    let turned_away = async {
        loop {
            match call("a").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), turned_away).await.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_error_info().unwrap().reason, SERVER_OVERLOADED);
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    HealthClient::new(running.channel.clone()).check(HealthCheckRequest::default()).await.unwrap();

    for call in hanging {
        call.abort();
    }
    let taken_again = async {
        while call("a").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken_again).await.unwrap();
    running.stop.send(()).unwrap();
}

#[tokio::test]
async fn the_listener_for_health_tells_health_and_nothing_else() {
    let server = server(Some("s3cret"));
    server.readiness().set_ready().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.clone().serve_health(listener, async {
        let _ = stopped.await;
    }));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let mut ask = async |service: &str| {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
        answer.into_inner().status()
    };
    assert_eq!(ask("").await, ServingStatus::Serving);
    assert_eq!(ask("runmesh.result.v1.ResultService").await, ServingStatus::Serving);
    server.readiness().set_not_ready().await;
    assert_eq!(ask("").await, ServingStatus::NotServing);

    let credentials = Credentials::new(Some(&Secret::new("s3cret"))).unwrap();
    let mut results = ResultServiceClient::with_interceptor(channel, credentials);
    assert_eq!(results.get_result(get("a")).await.unwrap_err().code(), Code::Unimplemented);
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
}

type HealthStream = Pin<Box<dyn Stream<Item = Result<ServingStatus, Status>> + Send>>;

async fn watch_health(channel: Channel, service: &str) -> HealthStream {
    let request = HealthCheckRequest { service: service.to_owned() };
    let stream = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    Box::pin(stream.map(|message| message.map(|message| message.status())))
}

#[tokio::test]
async fn health_is_not_serving_until_ready_and_first_on_shutdown() {
    let server = server(None);
    let readiness = server.readiness();
    let drain = Duration::from_secs(3);
    let running = start(server, drain).await;
    let mut all = watch_health(running.channel.clone(), "").await;
    let mut one = watch_health(running.channel.clone(), "runmesh.result.v1.ResultService").await;
    for stream in [&mut all, &mut one] {
        assert_eq!(stream.next().await.unwrap().unwrap(), ServingStatus::NotServing);
    }
    readiness.set_ready().await;
    assert!(readiness.is_ready());
    for stream in [&mut all, &mut one] {
        assert_eq!(stream.next().await.unwrap().unwrap(), ServingStatus::Serving);
    }

    // The streams are still open, and a call hangs: the server ends all the same, after its drain time.
    let mut client = ResultServiceClient::new(running.channel);
    let hanging = tokio::spawn(async move { client.get_result(get("slow")).await });
    let stopping = Instant::now();
    running.stop.send(()).unwrap();
    for stream in [&mut all, &mut one] {
        assert_eq!(stream.next().await.unwrap().unwrap(), ServingStatus::NotServing);
    }
    assert!(!readiness.is_ready());
    running.task.await.unwrap().unwrap();
    assert!(stopping.elapsed() >= drain, "calls in flight were given no time");
    assert!(stopping.elapsed() < drain + Duration::from_secs(5), "the drain has no bound");
    assert!(hanging.await.unwrap().is_err());
    // A cut stream is an error, never a clean end.
    assert!(all.next().await.unwrap().is_err());
}

#[tokio::test]
async fn a_server_without_calls_ends_at_once() {
    let running = start(server(None), Duration::from_secs(60)).await;
    running.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn reflection_knows_the_services_served_here_and_the_error_details() {
    let mut client = ServerReflectionClient::new(server(None).local()).max_decoding_message_size(16 << 20);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let questions = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("google.rpc.BadRequest".to_owned())),
        ask(MessageRequest::FileContainingSymbol("runmesh.result.v1.ResultService".to_owned())),
    ];
    let answers = client.server_reflection_info(tokio_stream::iter(questions)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await;
    let MessageResponse::ListServicesResponse(list) = &answers[0] else { panic!("{answers:?}") };
    let mut names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "runmesh.result.v1.ResultService"]
    );
    for answer in &answers[1..] {
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
    }
}
