//! Runs scripts: the sandboxes that hold them, and the interpreters of this machine.
//!
//! [`sandbox`] is the seam: a [`Sandbox`] starts a script and gives its output while it runs, then one verdict.
//! [`runtimes`] finds the interpreters that the registry file `runtimes.toml` describes. `conformance` (a feature) is the suite that
//! every sandbox passes.
//!
//! Invariants: what a run makes (processes, folders) is gone after it, however it ends; a verdict rests on evidence;
//! a script that writes faster than its output is taken waits, the node's memory does not grow.

mod cases;
mod compile;
#[cfg(feature = "conformance")]
pub mod conformance;
mod execute;
mod lease;
mod log;
mod output;
mod plan;
mod presence;
mod receipt;
mod reconcile;
pub mod runtimes;
pub mod sandbox;
mod service;
mod toolchains;
mod verdict;

pub use presence::Offer;
pub use receipt::{limits_of_proto, receipt_to_proto};
pub use runtimes::{MissingLanguage, RegistryError, Runtime, Runtimes, Search, UnknownRuntime};
pub use sandbox::process::helper::{ARGUMENT as SANDBOX_HELPER_ARGUMENT, run_if_asked as run_sandbox_helper_if_asked};
pub use sandbox::process::{Avoid, HelperCommand, ProcessConfig, ProcessSandbox};
pub use sandbox::{
    Canceller, Chunk, Collect, Ending, Enforcement, Level, Limit, Limits, Outcome, OutputStream, Recovered, Run,
    RunSpec, Sandbox, SandboxError, SourceFile, Started, Stray, Usage,
};
pub use service::{GROUP, Runner, TOPICS, group_of};
pub use toolchains::{ToolchainError, Toolchains};
