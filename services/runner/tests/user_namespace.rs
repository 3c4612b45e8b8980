//! The same as in `process`, in user namespaces, as an ordinary user has to.
#![allow(clippy::unwrap_used, reason = "tests")]

use runmesh_runner::Avoid;

#[path = "process/endings.rs"]
mod endings;
#[path = "process/harness.rs"]
mod harness;
#[path = "process/hygiene.rs"]
mod hygiene;
#[path = "process/ordinary.rs"]
mod ordinary;
#[path = "process/output.rs"]
mod output;
#[path = "process/pool.rs"]
mod pool;
#[path = "process/prepared.rs"]
mod prepared;
#[path = "process/start.rs"]
mod start;
#[path = "process/strays.rs"]
mod strays;
#[path = "process/suite.rs"]
mod suite;

const AVOID: Avoid = Avoid { namespaces: false, privileges: true, cgroups: false, landlock: false, seccomp: false };
