//! The runner's registry of runtimes, as the execution service asks for it.

use std::sync::Arc;

use runmesh_execution as execution;
use runmesh_proto::{
    event::Enforcement,
    execution::{Limits, Runtime},
};
use runmesh_runner::{Runtimes, Sandbox, limits_of_proto, receipt_to_proto};

/// The runtimes of this machine.
pub(crate) struct LocalRuntimes {
    found: Runtimes,
    sandbox: Arc<dyn Sandbox>,
    strict: bool,
}

impl LocalRuntimes {
    /// These runtimes, in this sandbox.
    pub(crate) fn new(found: Runtimes, sandbox: Arc<dyn Sandbox>, strict: bool) -> Self {
        Self { found, sandbox, strict }
    }
}

impl execution::Runtimes for LocalRuntimes {
    fn list(&self) -> Vec<Runtime> {
        self.found.list().iter().map(to_proto).collect()
    }

    fn resolve(&self, language: &str, version: &str) -> Option<Runtime> {
        self.found.resolve(language, version).ok().map(to_proto)
    }

    fn receipt(&self, limits: &Limits) -> Vec<Enforcement> {
        receipt_to_proto(&self.sandbox.receipt(&limits_of_proto(limits)))
    }

    fn strict(&self) -> bool {
        self.strict
    }
}

fn to_proto(runtime: &runmesh_runner::Runtime) -> Runtime {
    Runtime {
        language: runtime.language.clone(),
        version: runtime.version.to_string(),
        default: runtime.default,
        file_name: runtime.file_name.clone(),
        command: runtime.command.clone(),
        compile_command: Vec::new(),
    }
}
