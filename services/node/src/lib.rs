//! The node: configuration, roles, composition and the command line of the binary `runmesh`.
//!
//! This is the only crate that knows all services; it puts them together and holds no logic of theirs. Invariants: what
//! listens beyond loopback needs a token; a shutdown ends within its bound; a setting has one source of truth, with the
//! precedence flags, environment, file, defaults.

mod bus;
mod cli;
pub mod command;
mod config;
mod environment;
mod groups;
mod node;
mod roles;
mod runtimes;
mod sandbox;
mod store;
mod telemetry;

pub use cli::Cli;
pub use config::{Config, ConfigError};
pub use environment::Environment;
pub use node::{Listeners, Node, NodeError};
pub use roles::{Role, Roles};
