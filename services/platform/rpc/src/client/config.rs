//! The settings of a channel.

use std::time::Duration;

use crate::{KeepAlive, Tls};

/// The settings of an [`Upstream`](super::Upstream).
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// How long a connection may take to be there, TLS and the server's first words included.
    pub connect_timeout: Duration,
    /// The deadline of calls that come without one. Streams, and calls that wait for something to happen, have none.
    pub timeout: Option<Duration>,
    /// When servers are asked whether they are still there.
    pub keep_alive: KeepAlive,
    /// How often names are resolved.
    pub resolve_interval: Duration,
    /// How often a call is made at most, the first time included. Servers that can't be connected to don't count as long
    /// as there is another.
    pub attempts: u32,
    /// How many calls are made again, as a share of all, at most; beside those of `retry_burst`.
    pub retry_share: f64,
    /// How many calls may be made again at once, when none has been for a while.
    pub retry_burst: u32,
    /// How many failures in a row eject a server.
    pub ejection_failures: u32,
    /// How long a server is left out after it failed. Doubled each time in a row.
    pub ejection_time: Duration,
    /// How long a server is left out at most.
    pub ejection_maximum: Duration,
    /// TLS for connections that are to have it. `None`: they are plain.
    pub tls: Option<Tls>,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            timeout: Some(Duration::from_secs(30)),
            keep_alive: KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(5) },
            resolve_interval: Duration::from_secs(5),
            attempts: 3,
            retry_share: 0.2,
            retry_burst: 100,
            ejection_failures: 5,
            ejection_time: Duration::from_secs(1),
            ejection_maximum: Duration::from_secs(30),
            tls: None,
        }
    }
}
