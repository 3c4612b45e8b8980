//! A server that does what a test says, and what the tests share.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use prost::Message;
use runmesh_proto::{
    execution::{CreateExecutionRequest, CreateExecutionResponse, execution_service_client::ExecutionServiceClient},
    result::{GetResultRequest, GetResultResponse, result_service_client::ResultServiceClient},
};
use runmesh_rpc::{
    ConnectionSettings, Protocols,
    client::{Upstream, UpstreamConfig},
    serve_connections,
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tonic::{Status, body::Body};

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Behaviour = Arc<dyn Fn(&HeaderMap) -> Answer + Send + Sync>;

/// What a server has seen.
#[derive(Default)]
pub(crate) struct Seen {
    calls: AtomicUsize,
    /// Rings at each call.
    pub(crate) called: Notify,
    /// The deadlines of the calls, as they came.
    pub(crate) timeouts: Mutex<Vec<Option<String>>>,
}

/// A server. Dropped, it is gone at once, with its connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts a server that treats each call so.
    pub(crate) async fn start<F>(behaviour: impl Fn(&HeaderMap) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), behaviour).await
    }

    /// Starts a server at this address.
    pub(crate) async fn start_at<F>(
        address: SocketAddr,
        behaviour: impl Fn(&HeaderMap) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let behaviour: Behaviour = Arc::new(move |headers| Box::pin(behaviour(headers)));
        let (watched, settings) = (Arc::clone(&seen), ConnectionSettings::plain(Protocols::Http2));
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let timeout = request.headers().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
            watched.timeouts.lock().unwrap().push(timeout);
            watched.calls.fetch_add(1, Ordering::SeqCst);
            watched.called.notify_one();
            let answer = behaviour(request.headers());
            async move {
                // A server reads what it is sent.
                let body = http_body_util::BodyExt::collect(request.into_body()).await;
                drop(body);
                Ok::<_, Infallible>(answer.await)
            }
        });
        let task = tokio::spawn(async move {
            serve_connections(listener, service, settings, std::future::pending(), Duration::ZERO).await.unwrap();
        });
        Self { address, seen, task }
    }

    /// Starts a server that answers every call.
    pub(crate) async fn good() -> Self {
        Self::start(|_| async { good() }).await
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer that fits every method: a message without fields.
pub(crate) fn good() -> Response<Body> {
    messages(futures::stream::iter([Bytes::from_static(&[0; 5])]), Some(Status::new(tonic::Code::Ok, "")))
}

/// An answer of these frames. Without a status the stream ends as if the connection had.
pub(crate) fn messages(
    frames: impl futures::Stream<Item = Bytes> + Send + 'static,
    status: Option<Status>,
) -> Response<Body> {
    use futures::StreamExt as _;
    let end = match status {
        Some(status) => {
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers).unwrap();
            Ok(Frame::trailers(trailers))
        }
        None => Err(Status::internal("the test breaks it off")),
    };
    let frames = frames.map(|data| Ok(Frame::data(data))).chain(futures::stream::iter([end]));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    response
}

/// Settings with which nothing but the test's matter takes time.
pub(crate) fn quick() -> UpstreamConfig {
    UpstreamConfig { ejection_time: Duration::from_millis(50), ..UpstreamConfig::default() }
}

/// A channel to the servers.
pub(crate) fn upstream(servers: &[&Server], config: &UpstreamConfig) -> Upstream {
    let addresses: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    Upstream::new("test", &addresses.join(",").parse().unwrap(), config)
}

/// A call that changes nothing.
pub(crate) async fn get(upstream: &Upstream) -> Result<GetResultResponse, Status> {
    let request = GetResultRequest { execution_id: "id".to_owned() };
    ResultServiceClient::new(upstream.clone()).get_result(request).await.map(tonic::Response::into_inner)
}

/// A call that changes something, harmless to repeat with a request id.
pub(crate) async fn create(upstream: &Upstream, request_id: &str) -> Result<CreateExecutionResponse, Status> {
    let request = CreateExecutionRequest { request_id: request_id.to_owned(), spec: None };
    assert!(request.encoded_len() < 1000);
    ExecutionServiceClient::new(upstream.clone()).create_execution(request).await.map(tonic::Response::into_inner)
}

/// Waits until a condition holds.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("the condition never held");
}
