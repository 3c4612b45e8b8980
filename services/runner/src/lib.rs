//! Runs scripts: the sandboxes that hold them, and the interpreters of this machine.
//!
//! [`sandbox`] is the seam: a [`Sandbox`] starts a script and gives its output while it runs, then one verdict.
//! [`runtimes`] finds the interpreters that the registry file `runtimes.toml` describes.
//!
//! Invariants: what a run makes (processes, folders) is gone after it, however it ends; a verdict rests on evidence;
//! a script that writes faster than its output is taken waits, the node's memory does not grow.

mod execute;
mod lease;
mod log;
mod output;
pub mod runtimes;
pub mod sandbox;
mod service;
mod verdict;

pub use runtimes::{RegistryError, Runtime, Runtimes, Search, UnknownRuntime};
pub use sandbox::process::{ProcessConfig, ProcessSandbox};
pub use sandbox::{
    Canceller, Chunk, Ending, Enforcement, Limit, Limits, Outcome, OutputStream, Recovered, Run, RunSpec, Sandbox,
    SandboxError, SourceFile, Started, Usage,
};
pub use service::{GROUP, Runner, TOPICS};
