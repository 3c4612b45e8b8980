//! The runner's sandbox, as the settings describe it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use runmesh_runner::{
    Offer, ProcessConfig, ProcessSandbox, Runtimes, SandboxError, Search, ToolchainError, Toolchains,
};

use crate::{Config, Environment};

/// The folder of compilers' caches.
const CACHES: &str = "compilers";

/// Where to look for interpreters.
pub(crate) fn search(config: &Config, environment: &Environment) -> Search {
    Search {
        path: environment.path.clone(),
        home: environment.home.clone(),
        registry: config.runner.runtimes.clone(),
        cache: Some(environment.data_folder().join("runtimes.json")),
    }
}

/// The compilers among the runtimes. Their caches are the user's, whatever the node's data folder is, so that they are
/// filled once; where that can't be, they are in the data folder.
///
/// # Errors
/// See [`Toolchains::open`].
pub(crate) fn toolchains(
    environment: &Environment,
    data: &Path,
    found: Arc<Runtimes>,
) -> Result<Toolchains, ToolchainError> {
    Toolchains::open(Arc::clone(&found), environment.data_folder().join(CACHES)).or_else(|error| {
        tracing::debug!(%error, "compilers' caches are kept in the data folder");
        Toolchains::open(found, data.join(CACHES))
    })
}

/// What this runner offers.
pub(crate) fn offer(config: &Config) -> Offer {
    let machine = || {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Offer {
        slots: config.scheduler.effective_slots(),
        memory_bytes: match config.runner.memory_bytes {
            0 => machine().unwrap_or(0),
            bytes => bytes,
        },
        cpu_millis: config.runner.cpu_millis,
    }
}

/// Opens the sandbox below the data folder, for these interpreters, where scripts may read these files and folders too, with so many sandboxes
/// that wait.
///
/// # Errors
/// See [`ProcessSandbox::open`].
pub(crate) fn open(
    config: &Config,
    data: &Path,
    found: &Runtimes,
    readable: Vec<PathBuf>,
    pool: usize,
) -> Result<ProcessSandbox, SandboxError> {
    ProcessSandbox::open(ProcessConfig {
        cancel_grace: config.runner.cancel_grace,
        pool,
        prepare: if config.runner.prepare { found.prepared() } else { Vec::new() },
        avoid: config.runner.avoid,
        readable,
        ..ProcessConfig::new(data.join("work"))
    })
}
