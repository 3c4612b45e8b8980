//! Meshes of separate processes on Apache Kafka and a server of MongoDB's protocol, and what they make of lost parts: with
//! a load of executions in flight, something breaks; afterwards every accepted execution has come to its end, and
//! `runmesh verify` finds nothing lost.
//!
//! Each test has servers of its own, since it kills them.

mod bed;
mod network;
mod placement;
mod processes;
mod projections;
mod servers;
