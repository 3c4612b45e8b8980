//! What every gRPC server and client of the mesh shares: errors with details, access, traces, metrics, deadlines, health,
//! reflection, a transport inside the process, and a server that drains.
//!
//! Neighbours: it reads the access rule of each method from `runmesh-proto` and the trace context from `runmesh-events`;
//! the services' crates hand their generated servers to [`RpcServer`], and the gateway calls them through
//! [`LocalChannel`]. It knows no service. Invariants: a method without an access option can't be called; every call passes
//! the same stack of layers, whichever transport it came by; a secret never reaches a log;
//! a server returns within its drain time, whatever its clients do.

mod access;
mod client;
mod deadline;
mod health;
mod listen;
mod observe;
mod request_size;
mod server;
mod stack;
pub mod status;
mod trace;

pub use access::{AccessPolicy, Caller, Secret, caller_of};
pub use client::Credentials;
pub use health::Readiness;
pub use listen::{Protocols, serve_connections};
pub use request_size::{MAX_REQUEST_BYTES, REQUEST_TOO_LARGE};
pub use server::{RpcServer, RpcServerBuilder, ServerConfig};
pub use stack::LocalChannel;
pub use status::Violation;
pub use trace::trace_of;
