//! The runner's registry of runtimes, as the execution service asks for it.

use std::sync::Arc;

use runmesh_execution as execution;
use runmesh_proto::{
    event::Enforcement,
    execution::{Limits, ListRuntimesResponse, Runtime, UnavailableRuntime},
};
use runmesh_runner::{Runtimes, Sandbox, limits_of_proto, receipt_to_proto};

/// The runtimes of this machine.
pub(crate) struct LocalRuntimes {
    found: Arc<Runtimes>,
    sandbox: Arc<dyn Sandbox>,
    strict: bool,
}

impl LocalRuntimes {
    /// These runtimes, in this sandbox.
    pub(crate) fn new(found: Arc<Runtimes>, sandbox: Arc<dyn Sandbox>, strict: bool) -> Self {
        Self { found, sandbox, strict }
    }
}

impl execution::Runtimes for LocalRuntimes {
    fn list(&self) -> Vec<Runtime> {
        listed(&self.found).runtimes
    }

    fn resolve(&self, language: &str, version: &str) -> Option<Runtime> {
        self.found.resolve(language, version).ok().map(to_proto)
    }

    fn name_of(&self, language: &str) -> Option<String> {
        self.found.name_of(language).map(str::to_owned)
    }

    fn unavailable(&self) -> Vec<UnavailableRuntime> {
        listed(&self.found).unavailable
    }

    fn receipt(&self, limits: &Limits) -> Vec<Enforcement> {
        receipt_to_proto(&self.sandbox.receipt(&limits_of_proto(limits)))
    }

    fn strict(&self) -> bool {
        self.strict
    }
}

/// What is here and what is not.
pub(crate) fn listed(found: &Runtimes) -> ListRuntimesResponse {
    let unavailable = found.missing().map(|missing| UnavailableRuntime {
        language: missing.name.to_owned(),
        display_name: missing.display.to_owned(),
        package: missing.package.to_owned(),
    });
    ListRuntimesResponse { runtimes: found.list().iter().map(to_proto).collect(), unavailable: unavailable.collect() }
}

fn to_proto(runtime: &runmesh_runner::Runtime) -> Runtime {
    Runtime {
        language: runtime.language.clone(),
        version: runtime.version.to_string(),
        default: runtime.default,
        file_name: runtime.file_name.clone(),
        command: runtime.command.clone(),
        compile_command: runtime.compile.clone(),
    }
}
