//! The runner's sandbox, as the settings describe it.

use std::path::{Path, PathBuf};

use runmesh_runner::{ProcessConfig, ProcessSandbox, Runtimes, SandboxError, Search};

use crate::{Config, Environment};

/// Where to look for interpreters.
pub(crate) fn search(config: &Config, environment: &Environment) -> Search {
    Search {
        path: environment.path.clone(),
        home: environment.home.clone(),
        registry: config.runner.runtimes.clone(),
        cache: Some(environment.data_folder().join("runtimes.json")),
    }
}

/// Opens the sandbox below the data folder.
///
/// # Errors
/// See [`ProcessSandbox::open`].
pub(crate) fn open(config: &Config, data: &Path, found: &Runtimes) -> Result<ProcessSandbox, SandboxError> {
    ProcessSandbox::open(ProcessConfig {
        cancel_grace: config.runner.cancel_grace,
        pool: config.runner.pool,
        avoid: config.runner.avoid,
        readable: readable(found),
        ..ProcessConfig::new(data.join("work"))
    })
}

/// What the interpreters need beside the system's own folders: where they are installed.
pub(crate) fn readable(found: &Runtimes) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = found
        .list()
        .iter()
        .filter_map(|runtime| {
            let folder = Path::new(runtime.command.first()?).parent()?;
            Some(if folder.ends_with("bin") { folder.parent()?.to_owned() } else { folder.to_owned() })
        })
        .filter(|folder| folder.components().count() > 2)
        .collect();
    folders.sort();
    folders.dedup();
    folders
}
