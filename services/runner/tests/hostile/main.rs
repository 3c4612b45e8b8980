//! Attacks, each with its verdict: nothing escapes, nothing is left behind, and the next run is unaffected. Isolated as
//! well as this machine allows, as root and as an ordinary user.
#![allow(clippy::unwrap_used, reason = "tests")]

use runmesh_runner::Avoid;

mod attack;
mod kernel;
mod others;
mod processes;
mod resources;

#[allow(dead_code, unused_imports, reason = "shared with tests that need more of it")]
#[path = "../process/harness.rs"]
mod harness;
#[path = "../process/ordinary.rs"]
mod ordinary;

const AVOID: Avoid = Avoid { namespaces: false, privileges: false, cgroups: false, landlock: false, seccomp: false };
