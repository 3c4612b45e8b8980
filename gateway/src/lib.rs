//! HTTP for the gRPC services: unary calls as JSON, server-streams as Server-Sent Events, `google.api.HttpBody` as files,
//! and one page to try it.
//!
//! Neighbours: the contract's descriptors (`runmesh-proto`) say what there is; calls go to a gRPC transport, which is the
//! process's own [`LocalChannel`](runmesh_rpc::LocalChannel) or a channel to other ones. Invariants: there is no
//! code per RPC, so a new method with an HTTP route is served without a change here; INTERNAL methods are never offered; a
//! stream that failed never looks like one that ended; a client that reads slowly holds back its own upstream stream and
//! costs no memory; a token never reaches a log.
//!
//! Rules of the JSON: proto3's canonical mapping. Names are lowerCamelCase in answers and either form in requests; 64-bit
//! integers are strings; bytes are base64, which loses nothing; fields at their default are there too, absent ones are
//! not.

mod codec;
mod config;
mod dispatch;
mod download;
mod gateway;
mod guard;
mod openapi;
mod page;
mod problem;
mod query;
mod routes;
mod sse;
mod stream;
mod template;
mod transcode;

pub use codec::{DynamicCodec, DynamicDecoder, DynamicEncoder};
pub use config::GatewayConfig;
pub use gateway::Gateway;
