//! The runner's registry of runtimes, as the execution service asks for it.

use runmesh_execution as execution;
use runmesh_proto::execution::Runtime;
use runmesh_runner::{Runtimes, Sandbox};

/// The runtimes of this machine.
pub(crate) struct LocalRuntimes {
    found: Runtimes,
    enforced: Vec<String>,
}

impl LocalRuntimes {
    /// These runtimes, in this sandbox.
    pub(crate) fn new(found: Runtimes, sandbox: &dyn Sandbox) -> Self {
        let enforced =
            sandbox.receipt().iter().filter(|line| line.holds()).map(|line| line.limit.as_str().to_owned()).collect();
        Self { found, enforced }
    }
}

impl execution::Runtimes for LocalRuntimes {
    fn list(&self) -> Vec<Runtime> {
        self.found.list().iter().map(to_proto).collect()
    }

    fn resolve(&self, language: &str, version: &str) -> Option<Runtime> {
        self.found.resolve(language, version).ok().map(to_proto)
    }

    fn enforced(&self) -> Vec<String> {
        self.enforced.clone()
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
