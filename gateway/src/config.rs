//! The settings of the gateway.

use std::time::Duration;

use runmesh_rpc::{MAX_REQUEST_BYTES, Secret};

/// The settings of a gateway. [`Default`] is for loopback.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The bearer token that callers need, the same as the upstream's. `None`: none is needed, and then only requests
    /// whose `Host` is a loopback name or in `allowed_hosts` are served, so that a web page can't reach the gateway by
    /// a DNS name of its own.
    pub token: Option<Secret>,
    /// The origins, such as `https://app.example`, whose pages may call the gateway. `*` is any.
    pub cors_origins: Vec<String>,
    /// More values of `Host` to serve when there is no token, without port.
    pub allowed_hosts: Vec<String>,
    /// How long a stream may be silent before a comment line shows that it is alive.
    pub heartbeat: Duration,
    /// How long an EventSource is told to wait before it connects again.
    pub retry: Duration,
    /// How long a stream waits for its first message before it answers 200. An error or an end within this time has a
    /// status of its own.
    pub first_message_wait: Duration,
    /// The greatest size of a request's body. The gRPC message that it becomes has a limit too.
    pub max_body_bytes: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            token: None,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(1),
            first_message_wait: Duration::from_millis(50),
            // Base64 makes four bytes of three, so a message of full size fits.
            max_body_bytes: MAX_REQUEST_BYTES / 3 * 4 + (1 << 20),
        }
    }
}
