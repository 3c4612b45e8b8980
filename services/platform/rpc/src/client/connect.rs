//! Makes connections.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use super::{
    address::{Host, Security},
    pool::Resolve,
};
use crate::{KeepAlive, Tls, first_bytes::FirstBytes};

/// The kind of frame with which each end of HTTP/2 begins, in the fourth byte.
const SETTINGS: u8 = 4;

/// Why a server can't be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address is known, since the name could not be resolved.
    #[error("no address of {0} is known")]
    NoAddress(String),
    /// The name can't be resolved.
    #[error("can't resolve {name}: {source}")]
    Resolve {
        /// The name.
        name: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// There is no connection.
    #[error("can't connect to {address}: {source}")]
    Connect {
        /// The server.
        address: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// TLS is needed, and not set up.
    #[error("{0} is to be called with TLS, which is not set up")]
    TlsMissing(String),
    /// The two ends can't agree on TLS.
    #[error("TLS with {address}: {source}")]
    Tls {
        /// The server.
        address: String,
        /// What either end has against it.
        source: io::Error,
    },
    /// What is there is no gRPC server.
    #[error("{address} does not speak HTTP/2 {security}: {reason}")]
    Protocol {
        /// The server.
        address: String,
        /// How it was spoken to.
        security: &'static str,
        /// What it said.
        reason: String,
    },
    /// It takes too long.
    #[error("{address} did not answer within {}", humantime(.after))]
    Timeout {
        /// The server.
        address: String,
        /// How long it had.
        after: Duration,
    },
    /// The runtime is shutting down.
    #[error("stopped while connecting to {0}")]
    Stopped(String),
}

fn humantime(duration: &Duration) -> String {
    format!("{} ms", duration.as_millis())
}

/// A server: what it is called, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// As it is written in the settings; its name is what its certificate must be for.
    pub(crate) host: Host,
    /// Where it is. `None`: the name is resolved when it is connected to.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) has_tls: bool,
}

impl Target {
    /// For logs and errors.
    pub(crate) fn label(&self) -> String {
        match self.address {
            Some(address) if address.to_string() != self.host.to_string() => format!("{} ({address})", self.host),
            _ => self.host.to_string(),
        }
    }
}

/// How connections are made.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    pub(crate) timeout: Duration,
    pub(crate) keep_alive: KeepAlive,
    pub(crate) tls: Option<Tls>,
    pub(crate) resolver: Arc<dyn Resolve>,
}

/// A connection, with its number of calls.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Body>,
    /// Calls that are on it.
    pub(crate) calls: Arc<AtomicUsize>,
    /// The most that the server wants on it.
    pub(crate) most: Arc<AtomicUsize>,
}

impl Connector {
    /// Connects. The server has said its first words when this returns, so a host whose system accepts connections for a
    /// process that does not run is not taken for one that can be called.
    pub(crate) async fn connect(&self, target: &Target) -> Result<Connection, ConnectError> {
        let connecting = async {
            let stream = self.tcp(target).await?;
            let address = target.label();
            if !target.has_tls {
                return self.http(stream, address, false).await;
            }
            let tls = self.tls.as_ref().ok_or_else(|| ConnectError::TlsMissing(address.clone()))?;
            let failed = |source| ConnectError::Tls { address: target.label(), source };
            let name = ServerName::try_from(target.host.name.clone())
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let stream = TlsConnector::from(tls.client()).connect(name, stream).await.map_err(failed)?;
            self.http(stream, address, true).await
        };
        match timeout(self.timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { address: target.label(), after: self.timeout }),
        }
    }

    async fn tcp(&self, target: &Target) -> Result<TcpStream, ConnectError> {
        let addresses = match target.address {
            Some(address) => vec![address],
            None => self
                .resolver
                .resolve(&target.host.name, target.host.port)
                .await
                .map_err(|source| ConnectError::Resolve { name: target.host.name.clone(), source })?,
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "can't set TCP_NODELAY");
                    }
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(ConnectError::Connect { address: target.label(), source: last })
    }

    async fn http<T>(&self, stream: T, address: String, has_tls: bool) -> Result<Connection, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let security = if has_tls { "over TLS" } else { "without TLS" };
        let (stream, first) = FirstBytes::new(stream);
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.keep_alive.interval)
            .keep_alive_timeout(self.keep_alive.timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Protocol {
                address: address.clone(),
                security,
                reason: error.to_string(),
            })?;
        let most = Arc::new(AtomicUsize::new(1));
        let seen = Arc::clone(&most);
        tokio::spawn(async move {
            let driven = std::future::poll_fn(|cx| {
                // What the server wants is known once its settings are read, and it may change them.
                seen.store(connection.current_max_send_streams(), Ordering::Relaxed);
                Pin::new(&mut connection).poll(cx)
            });
            if let Err(error) = driven.await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
        // Without an answer the connection ends with its sender.
        match first.await {
            Ok(Ok(head)) if head.get(3).is_none_or(|kind| *kind == SETTINGS) => {}
            Ok(Ok(_)) => {
                let reason = "it answered with something else".to_owned();
                return Err(ConnectError::Protocol { address, security, reason });
            }
            // With TLS 1.3 a server's refusal of the client's certificate comes after the handshake.
            Ok(Err(source)) if has_tls => return Err(ConnectError::Tls { address, source }),
            Ok(Err(error)) => {
                return Err(ConnectError::Protocol { address, security, reason: error.to_string() });
            }
            Err(_) => {
                let reason = "the connection was lost".to_owned();
                return Err(ConnectError::Protocol { address, security, reason });
            }
        }
        Ok(Connection { sender, calls: Arc::default(), most })
    }
}

/// Whether an entry's connections have TLS, where `is_set_up` says whether the settings have it.
pub(crate) fn has_tls(security: Security, is_set_up: bool) -> bool {
    match security {
        Security::AsConfigured => is_set_up,
        Security::Plain => false,
        Security::Tls => true,
    }
}
