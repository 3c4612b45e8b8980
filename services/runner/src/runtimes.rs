//! The interpreters of this machine: what the registry file `runtimes.toml` describes, and where it was found.

use std::ffi::OsString;
use std::path::PathBuf;
use std::{fs, io};

mod cache;
mod discovery;
mod registry;
mod version;

use registry::{Language, Registry};
pub use version::Version;

/// The registry file that is built in.
const REGISTRY: &str = include_str!("../runtimes.toml");

/// Where to look for interpreters.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Folders with `:` between them, as in the variable PATH.
    pub path: OsString,
    /// The home folder, for version managers that keep interpreters there.
    pub home: Option<PathBuf>,
    /// A registry file instead of the one that is built in.
    pub registry: Option<PathBuf>,
    /// A file that remembers the versions of executables, so that they are not asked for at each start.
    pub cache: Option<PathBuf>,
}

/// One version of one language, ready to run scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The language, such as `python`.
    pub language: String,
    /// The language, for people.
    pub display: String,
    /// The version, such as `3.11.7`.
    pub version: Version,
    /// Whether it is what runs when no version is asked for.
    pub default: bool,
    /// The name of the main file, when a script comes without one.
    pub file_name: String,
    /// The command, with `{file}` where the main file goes.
    pub command: Vec<String>,
}

/// The interpreters of this machine.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    languages: Vec<Language>,
    /// By language in the order of the registry, newest first.
    found: Vec<Runtime>,
}

/// What was asked for is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownRuntime {
    /// No such language.
    #[error("there is no language {language:?} here, only {}", available.join(", "))]
    Language {
        /// What was asked for.
        language: String,
        /// The languages that are there.
        available: Vec<String>,
    },
    /// The language is there, in other versions.
    #[error("there is no version {version:?} of {language} here, only {}", available.join(", "))]
    Version {
        /// The language.
        language: String,
        /// What was asked for.
        version: String,
        /// The versions that are there, newest first.
        available: Vec<String>,
    },
}

/// The registry file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It can't be read.
    #[error("could not read the runtimes file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("the runtimes file is not valid: {0}")]
    Invalid(String),
}

impl Runtimes {
    /// Finds the interpreters. Those whose version is not remembered are asked for it, several at once: that takes a
    /// few ms each, and 2 s at most.
    ///
    /// # Errors
    ///
    /// The registry file can't be used. An interpreter that does not work is left out, with a warning.
    pub async fn discover(search: &Search) -> Result<Runtimes, RegistryError> {
        let registry = match &search.registry {
            Some(path) => {
                let text = fs::read_to_string(path);
                text.map_err(|source| RegistryError::Read { path: path.clone(), source })?.parse::<Registry>()?
            }
            None => REGISTRY.parse::<Registry>()?,
        };
        let found = discovery::discover(&registry, search).await;
        Ok(Runtimes { languages: registry.languages, found })
    }

    /// All of them: by language, newest first.
    pub fn list(&self) -> &[Runtime] {
        &self.found
    }

    /// The newest one of a language whose version begins with `version`: `3.1` is 3.1.4, never 3.11.7. Empty: the
    /// newest of all.
    ///
    /// # Errors
    ///
    /// There is none, with what there is instead.
    pub fn resolve(&self, language: &str, version: &str) -> Result<&Runtime, UnknownRuntime> {
        let name = self.name_of(language).unwrap_or(language);
        let mut of_language = self.found.iter().filter(|runtime| runtime.language == name).peekable();
        if of_language.peek().is_none() {
            let mut available: Vec<String> = self.found.iter().map(|runtime| runtime.language.clone()).collect();
            available.dedup();
            return Err(UnknownRuntime::Language { language: language.to_owned(), available });
        }
        of_language.clone().find(|runtime| runtime.version.begins_with(version)).ok_or_else(|| {
            UnknownRuntime::Version {
                language: language.to_owned(),
                version: version.to_owned(),
                available: of_language.map(|runtime| runtime.version.to_string()).collect(),
            }
        })
    }

    /// The language of a file by its name, such as `python` for `hello.py`, whether or not it is there.
    pub fn language_of(&self, file_name: &str) -> Option<&str> {
        let (_, extension) = file_name.rsplit_once('.')?;
        let language = self.languages.iter().find(|language| language.extensions.iter().any(|one| one == extension))?;
        Some(&language.name)
    }

    /// The languages of the registry that were not found, each with the Debian package that brings it.
    pub fn missing(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_there = |name: &str| self.found.iter().any(|runtime| runtime.language == name);
        self.languages
            .iter()
            .filter(move |language| !is_there(&language.name))
            .map(|language| (&*language.name, &*language.package))
    }

    fn name_of(&self, name: &str) -> Option<&str> {
        let is_it = |language: &&Language| language.name == name || language.aliases.iter().any(|alias| alias == name);
        self.languages.iter().find(is_it).map(|language| &*language.name)
    }
}

impl Runtime {
    /// The whole command for a main file and its arguments.
    pub fn command_for(&self, file: &str, arguments: &[String]) -> Vec<String> {
        // A name that begins with `-` would be taken for an option.
        let file = if file.starts_with('-') { format!("./{file}") } else { file.to_owned() };
        let own = self.command.iter().map(|part| part.replace("{file}", &file));
        own.chain(arguments.iter().cloned()).collect()
    }
}
