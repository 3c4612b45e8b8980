//! The process sandbox with real processes, isolated as well as this machine allows.
#![allow(clippy::unwrap_used, reason = "tests")]

use runmesh_runner::Avoid;

mod endings;
mod harness;
mod hygiene;
mod network;
mod ordinary;
mod output;
mod pool;
mod prepared;
mod start;
mod strays;
mod suite;

const AVOID: Avoid = Avoid { namespaces: false, privileges: false, cgroups: false, landlock: false, seccomp: false };
