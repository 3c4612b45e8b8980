//! Why a script did not start.

use std::io;
use std::path::PathBuf;

/// A script did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A submitted file has a path that is not allowed.
    #[error("file path {path:?} {source}")]
    InvalidPath {
        /// The path as it was submitted.
        path: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// Another part of the spec is not usable.
    #[error("{field} {reason}")]
    InvalidSpec {
        /// The field of `RunSpec`.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// This execution and attempt runs already, or an earlier run of it was never cleaned up.
    #[error("attempt {attempt} of execution {execution_id} runs already")]
    AlreadyRunning {
        /// The execution.
        execution_id: String,
        /// The attempt.
        attempt: u32,
    },
    /// The program does not exist on this machine.
    #[error("there is no program {}", program.display())]
    MissingProgram {
        /// Its path.
        program: PathBuf,
    },
    /// Another node uses the same root folder.
    #[error("the folder {} is in use by another node", root.display())]
    RootInUse {
        /// The root folder.
        root: PathBuf,
    },
    /// A strict run, and not all of its limits can be held to here.
    #[error("strict, and these limits are not enforced here: {}", listed(missing))]
    NotEnforced {
        /// The lines of the receipt that don't hold in full.
        missing: Vec<super::Enforcement>,
    },
    /// The helper process, which sets sandboxes up, refused or failed.
    #[error("the sandbox could not be set up: {step}: {source}")]
    Setup {
        /// What it was doing.
        step: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The script's files alone need more than this limit.
    #[error("its files don't fit into limits.{}", limit.as_str())]
    NoRoom {
        /// The limit.
        limit: super::Limit,
    },
    /// The sandbox was lost while the script was started. It may have run already.
    #[error("the sandbox was lost at the start of the script: {step}: {source}")]
    Lost {
        /// What the node was doing.
        step: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The operating system refused a step.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// The step.
        action: &'static str,
        /// The file, folder or program.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The runtime is shutting down.
    #[error("the sandbox is shutting down")]
    ShuttingDown,
}

impl SandboxError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> SandboxError {
        let path = path.into();
        move |source| SandboxError::Io { action, path, source }
    }

    /// Whether the request is at fault, so that no other machine would run it either.
    pub fn is_invalid_request(&self) -> bool {
        use SandboxError::{InvalidPath, InvalidSpec, NoRoom};
        matches!(self, InvalidPath { .. } | InvalidSpec { .. } | NoRoom { .. })
    }
}

fn listed(missing: &[super::Enforcement]) -> String {
    let line = |one: &super::Enforcement| format!("{} ({})", one.limit.as_str(), one.reason);
    missing.iter().map(line).collect::<Vec<_>>().join(", ")
}

/// What is wrong with a path of a submitted file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is empty, or has an empty part.
    #[error("has an empty part")]
    Empty,
    /// It begins with `/`.
    #[error("is absolute")]
    Absolute,
    /// It has a part `.` or `..`.
    #[error("has a part that is `.` or `..`")]
    Dots,
    /// It has a NUL or another control character.
    #[error("has a control character")]
    Control,
    /// It is longer than 1,024 bytes, has a part longer than 255 bytes, or more than 32 parts.
    #[error("is too long")]
    TooLong,
    /// It is given twice, or is both a file and a folder.
    #[error("is given twice, or is a file and a folder at once")]
    Conflict,
}
