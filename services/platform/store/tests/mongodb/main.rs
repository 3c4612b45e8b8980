//! The MongoDB store: the suite, and what is MongoDB's own.
//!
//! The server is the one that `MESH_TEST_MONGODB` names, or else the test servers' FerretDB, which is not MongoDB:
//! docs/testing.md says in what it differs. Tests that break a server or a connection have a FerretDB of their own.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod buckets;
mod deletion;
mod faults;
mod harness;
mod measure;
mod open;
mod proxy;
mod sharing;

use harness::Mongo;

runmesh_store::store_suite!(Mongo);
