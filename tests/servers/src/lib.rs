//! The servers that the tests stand on: Apache Kafka, and FerretDB for MongoDB's protocol.
//!
//! - [`install`] puts their programs under `target/servers/install/`: Kafka by Maven, FerretDB built by Go.
//! - [`Shared::find`] gives the addresses of those that `cargo xtask servers up` runs, or that the user has named. Suites
//!   that need a server and leave it as it was use these.
//! - [`Kafka`] and [`MongoLike`] are private ones, for tests that kill, stop or reconfigure a server. They end with the
//!   test, also with one that crashes, and leave no folder behind.
//! - [`Proxy`] is a network before a server that is slow or cut when a test says so.
//! - [`up`], [`down`] and [`status`] are the developers' commands; a [`Session`] is a run of all tests.
//!
//! It stands on no crate of Runmesh and on little else, so that `cargo xtask` builds in seconds. Its calls block; in
//! asynchronous tests they belong into `spawn_blocking` where something else has to go on meanwhile.
//!
//! FerretDB is not MongoDB: docs/testing.md says in what it differs. A real one can be named by
//! `MESH_TEST_MONGODB`, another Kafka by `MESH_TEST_KAFKA`.

mod install;
mod kafka;
mod mongo_like;
mod ports;
mod private;
mod process;
mod proxy;
mod shared;

pub use install::{Installed, install};
pub use kafka::{Kafka, KafkaOptions, Sasl, Security, Tls};
pub use mongo_like::MongoLike;
pub use proxy::Proxy;
pub use shared::{
    KAFKA_VARIABLE, MONGODB_VARIABLE, Shared,
    commands::{Outcome, down, status, unnamed, up},
    session::Session,
    state::{Kind, Server, State},
};

use std::path::{Path, PathBuf};

/// Where the test servers' programs, data and logs are: `target/servers` in the repository.
pub fn folder() -> PathBuf {
    repository().join("target/servers")
}

fn repository() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().unwrap_or(path)
}
