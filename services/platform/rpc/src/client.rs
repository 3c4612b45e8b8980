//! Calls to servers in other processes.
//!
//! An [`Upstream`] is a channel to all servers of one role: it finds them, spreads calls over them, leaves out those that
//! fail, and makes a call again where that is safe. A [`Router`] sends each call to the upstream of the role that hosts its
//! service. Both are transports for generated clients and for calls by descriptors.

mod address;
mod attempt;
mod balance;
mod breaker;
mod budget;
mod call;
mod config;
mod connect;
mod credentials;
mod endpoint;
mod pool;
mod response;
mod router;
mod upstream;

pub use address::{AddressError, Addresses};
pub use config::UpstreamConfig;
pub use connect::ConnectError;
pub use credentials::Credentials;
pub use pool::{Resolve, SystemResolver};
pub use router::{Router, RouterBuilder};
pub use upstream::Upstream;
