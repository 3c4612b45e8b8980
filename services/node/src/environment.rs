//! What the process was started with.

use std::{collections::HashMap, ffi::OsString, path::PathBuf};

/// The beginning of the names of variables that are settings.
const PREFIX: &str = "RUNMESH_";

/// Variables with the prefix that are no settings.
const OTHERS: [&str; 2] = ["RUNMESH_CONFIG", "RUNMESH_EXECUTION_ID"];

/// The parts of the process's environment that the node uses.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Settings: `RUNMESH_GRPC__LISTEN` is the setting `grpc.listen`.
    pub settings: HashMap<String, String>,
    /// Where programs are found.
    pub path: OsString,
    /// The home folder.
    pub home: Option<PathBuf>,
    /// Where data of programs is kept, by the XDG base directory specification.
    pub data_home: Option<PathBuf>,
}

impl Environment {
    /// Reads it. To be called by `main` alone.
    pub fn of_process() -> Self {
        let path_of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let settings = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(PREFIX) && !OTHERS.contains(&name.as_str()))
            .collect();
        Self {
            settings,
            path: std::env::var_os("PATH").unwrap_or_default(),
            home: path_of("HOME"),
            data_home: path_of("XDG_DATA_HOME"),
        }
    }

    /// The folder for the node's data where none is set.
    pub fn data_folder(&self) -> PathBuf {
        self.data_home
            .clone()
            .or_else(|| Some(self.home.as_ref()?.join(".local/share")))
            .unwrap_or_else(|| PathBuf::from("."))
            .join("runmesh")
    }
}
