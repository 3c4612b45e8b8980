//! Serves HTTP connections and ends them within a bound.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use metrics::counter;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    Tls,
    first_bytes::{First, FirstBytes},
};

/// The most calls at once on one HTTP/2 connection.
const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// How long an HTTP/1 client may take to send the head of a request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait after a failed accept: it fails when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The versions of HTTP that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2 with prior knowledge, as gRPC has it.
    Http2,
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    Http1And2,
}

/// When a connection is asked whether its other end is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// How long a connection may be silent before it is asked.
    pub interval: Duration,
    /// How long the answer may take; then the connection is given up.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { interval: Duration::from_secs(20), timeout: Duration::from_secs(20) }
    }
}

/// How a listener treats its connections.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// What they speak.
    pub protocols: Protocols,
    /// For HTTP/2.
    pub keep_alive: KeepAlive,
    /// TLS with this certificate. `None`: plain.
    pub tls: Option<Tls>,
    /// The most connections at a time; more have to wait. `None`: three eighths of the descriptors that this process may
    /// have, since a node has two large listeners, and the rest is for the store, scripts and the bus.
    pub most: Option<usize>,
}

impl ConnectionSettings {
    /// Without TLS.
    pub fn plain(protocols: Protocols) -> Self {
        Self { protocols, keep_alive: KeepAlive::default(), tls: None, most: None }
    }
}

/// Serves `service` on the listener until `shutdown` is ready. Then it accepts no more, tells its clients (GOAWAY,
/// `connection: close`), waits up to `drain` for the calls in flight, and cuts what is left.
///
/// # Errors
///
/// When the listener has no address, which means that it is not bound.
pub async fn serve_connections<S, B>(
    listener: TcpListener,
    service: S,
    settings: ConnectionSettings,
    shutdown: impl Future<Output = ()>,
    drain: Duration,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(settings.most.unwrap_or_else(most_connections)));
    let settings = Arc::new(settings);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &room) => match accepted {
                Ok((stream, place)) => {
                    let serving = serve_connection(stream, service.clone(), Arc::clone(&settings), stop.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "can't accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // Ended connections are taken out, or the set would grow for ever.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stop.cancel();
    let drained = timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(%address, connections = connections.len(), "drain time is over, connections are cut");
        connections.shutdown().await;
    }
    Ok(())
}

fn most_connections() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(descriptors / 8 * 3).unwrap_or(usize::MAX).clamp(16, Semaphore::MAX_PERMITS)
}

/// Accepts a connection when there is room for one more. Cancel-safe.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// Waits until a client has said enough to tell its protocol: the preface of HTTP/2, or the least request of HTTP/1. A
/// client that does not say so much in time keeps no connection.
async fn has_begun(stream: &TcpStream, protocols: Protocols) -> bool {
    const LEAST_HTTP_1: usize = 18;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let begun = async {
        let mut first = [0; PREFACE.len()];
        loop {
            let seen = stream.peek(&mut first).await.ok()?;
            let least = if protocols == Protocols::Http2 || PREFACE.starts_with(&first[..seen.min(3)]) {
                PREFACE.len()
            } else {
                LEAST_HTTP_1
            };
            match seen {
                0 => return None,
                seen if seen >= least => return Some(()),
                // What is there already does not wake anyone again.
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(HEADER_READ_TIMEOUT, begun).await.ok().flatten().is_some()
}

async fn serve_connection<S, B>(
    stream: TcpStream,
    service: S,
    settings: Arc<ConnectionSettings>,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "can't set TCP_NODELAY");
    }
    match &settings.tls {
        None => {
            if stop.run_until_cancelled(has_begun(&stream, settings.protocols)).await == Some(true) {
                serve_stream(stream, service, &settings, stop).await;
            }
        }
        Some(tls) => {
            if let Some(Some(stream)) = stop.run_until_cancelled(agree(stream, tls)).await {
                let (stream, begun) = FirstBytes::new(stream);
                tokio::select! {
                    () = serve_stream(stream, service, &settings, stop) => {}
                    () = never_begins(begun) => {}
                }
            }
        }
    }
}

/// Ends when nothing has come for too long since the start. Otherwise it does not.
async fn never_begins(begun: oneshot::Receiver<First>) {
    if timeout(HEADER_READ_TIMEOUT, begun).await.is_ok() {
        std::future::pending().await
    }
}

/// The TLS handshake. `None`: it failed, which is logged, since the client learns little of why.
async fn agree(stream: TcpStream, tls: &Tls) -> Option<TlsStream<TcpStream>> {
    let peer = stream.peer_addr().ok();
    let handshake = async {
        let config = tls.server().map_err(io::Error::other)?;
        timeout(HEADER_READ_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await?
    };
    match handshake.await {
        Ok(stream) => Some(stream),
        Err(error) => {
            counter!("rpc_server_tls_failures_total").increment(1);
            let peer = peer.map(tracing::field::display);
            tracing::info!(peer, %error, "a TLS handshake failed");
            None
        }
    }
}

async fn serve_stream<T, S, B>(stream: T, service: S, settings: &ConnectionSettings, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if settings.protocols == Protocols::Http2 {
        builder = builder.http2_only();
    }
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.keep_alive.interval)
        .keep_alive_timeout(settings.keep_alive.timeout)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let mut connection =
        std::pin::pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Most often a client that went away.
        tracing::debug!(%error, "connection ended with an error");
    }
}
