//! What the process was started with.

use std::{collections::HashMap, ffi::OsString, path::PathBuf};

/// The beginning of the names of variables that are settings.
const PREFIX: &str = "RUNMESH_";

/// Variables with the prefix that are no settings.
const OTHERS: [&str; 8] = [
    "RUNMESH_CONFIG",
    "RUNMESH_SERVER",
    "RUNMESH_TOKEN",
    "RUNMESH_CA",
    "RUNMESH_CERT",
    "RUNMESH_KEY",
    "RUNMESH_EXECUTION_ID",
    "RUNMESH_RUN_FOLDER",
];

/// The parts of the process's environment that the node uses.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Settings: `RUNMESH_GRPC__LISTEN` is the setting `grpc.listen`.
    pub settings: HashMap<String, String>,
    /// The names of settings whose values are not text.
    pub unreadable: Vec<String>,
    /// Where programs are found.
    pub path: OsString,
    /// The home folder.
    pub home: Option<PathBuf>,
    /// Who started it, by the name of the login.
    pub user: Option<String>,
    /// The command that opens a file for a person to change.
    pub editor: Option<String>,
    /// Where data of programs is kept, by the XDG base directory specification.
    pub data_home: Option<PathBuf>,
}

impl Environment {
    /// Reads it. To be called by `main` alone.
    pub fn of_process() -> Self {
        let path_of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text_of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (mut settings, mut unreadable) = (HashMap::new(), Vec::new());
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) || OTHERS.contains(&name.as_str()) {
                continue;
            }
            match value.into_string() {
                Ok(value) => drop(settings.insert(name, value)),
                Err(_) => unreadable.push(name),
            }
        }
        Self {
            settings,
            unreadable,
            path: std::env::var_os("PATH").unwrap_or_default(),
            home: path_of("HOME"),
            user: text_of("USER"),
            editor: text_of("VISUAL").or_else(|| text_of("EDITOR")),
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
