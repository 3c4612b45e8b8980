//! What every gRPC server and client of the mesh shares: errors with details, access, traces, metrics, deadlines, limits,
//! health, reflection, TLS, a transport inside the process, a server that drains, and a channel to the servers of a role.
//!
//! Neighbours: it reads from `runmesh-proto` who may call a method and whether a call can be repeated, and the trace
//! context from `runmesh-events`; the services' crates hand their generated servers to [`RpcServer`], and the gateway calls
//! them through [`LocalChannel`] or, in other processes, an [`Upstream`](client::Upstream). It knows no service. Invariants:
//! a method without an access option can't be called; every call passes the same stack of layers, whichever transport it
//! came by; a secret never reaches a log; a server returns within its drain time, whatever its clients do; a call that may
//! have been carried out is made again only where that is harmless.

mod access;
pub mod client;
mod deadline;
mod first_bytes;
mod health;
mod limit;
mod listen;
mod method;
mod observe;
pub mod page_token;
mod request_size;
mod server;
mod stack;
pub mod status;
mod tls;
mod trace;
mod watch;

pub use access::{AccessPolicy, Caller, Secret, caller_of};
pub use client::Credentials;
pub use deadline::Deadline;
pub use health::Readiness;
pub use limit::{Limits, SERVER_OVERLOADED};
pub use listen::{ConnectionSettings, KeepAlive, Protocols, serve_connections};
pub use request_size::{MAX_REQUEST_BYTES, REQUEST_TOO_LARGE};
pub use server::{RpcServer, RpcServerBuilder, ServerConfig};
pub use stack::LocalChannel;
pub use status::{Violation, execution_id};
pub use tls::{ClientAuth, IdentityFiles, Tls, TlsError, TlsFiles};
pub use trace::trace_of;
pub use watch::Watch;
