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
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// How often an idle HTTP/2 connection is asked whether it is still there, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
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

/// Serves `service` on the listener until `shutdown` is ready. Then it accepts no more, tells its clients (GOAWAY,
/// `connection: close`), waits up to `drain` for the calls in flight, and cuts what is left.
///
/// # Errors
///
/// When the listener has no address, which means that it is not bound.
pub async fn serve_connections<S, B>(
    listener: TcpListener,
    service: S,
    protocols: Protocols,
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
    let room = Arc::new(Semaphore::new(most_connections()));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &room) => match accepted {
                Ok((stream, place)) => {
                    let serving = serve_connection(stream, service.clone(), protocols, stop.clone());
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

/// Three eighths of the descriptors that this process may have: a node has two listeners, and the rest is for the store,
/// scripts and the bus.
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

async fn serve_connection<S, B>(stream: TcpStream, service: S, protocols: Protocols, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if stop.run_until_cancelled(has_begun(&stream, protocols)).await != Some(true) {
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "can't set TCP_NODELAY");
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    if protocols == Protocols::Http2 {
        builder = builder.http2_only();
    }
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
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
