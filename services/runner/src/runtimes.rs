//! The interpreters and compilers of this machine: what the registry file `runtimes.toml` describes, and where it was found.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
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
    /// The executable's real path: the interpreter, or the compiler.
    pub program: PathBuf,
    home: Option<PathBuf>,
    /// The command, with places to fill in as `runtimes.toml` says.
    pub command: Vec<String>,
    /// The command that compiles the program first, of the same form. Empty: there is none.
    pub compile: Vec<String>,
    /// Environment variables of the compiler. `{cache}` stands for the folder of its cache.
    pub compile_environment: BTreeMap<String, String>,
    /// The command that fills its cache. Empty: it has none.
    pub fill_cache: Vec<String>,
    /// Whether it may be started before there is a script, to wait for it.
    pub prepared: bool,
}

/// A language that was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingLanguage<'a> {
    /// Its name, such as `ruby`.
    pub name: &'a str,
    /// The same for people.
    pub display: &'a str,
    /// The Debian package that brings it. Empty: none does.
    pub package: &'a str,
}

/// The interpreters and compilers of this machine.
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
    /// few ms each, some hundreds for a JVM, and 10 s at most.
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

    /// What sandboxes have to show of this machine for them, beside the system's own folders.
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = self.found.iter().filter_map(Runtime::folder).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// The interpreters that may be started before there is a script.
    pub fn prepared(&self) -> Vec<PathBuf> {
        self.found.iter().filter(|runtime| runtime.prepared).map(|runtime| runtime.program.clone()).collect()
    }

    /// The languages of the registry that were not found.
    pub fn missing(&self) -> impl Iterator<Item = MissingLanguage<'_>> {
        let is_there = |name: &str| self.found.iter().any(|runtime| runtime.language == name);
        self.languages.iter().filter(move |language| !is_there(&language.name)).map(|language| MissingLanguage {
            name: &language.name,
            display: &language.display,
            package: &language.package,
        })
    }

    /// The name of a language by its name or an alias, whether or not it is there.
    pub fn name_of(&self, name: &str) -> Option<&str> {
        let is_it = |language: &&Language| language.name == name || language.aliases.iter().any(|alias| alias == name);
        self.languages.iter().find(is_it).map(|language| &*language.name)
    }
}

impl Runtime {
    /// The folder that has the executable and what it needs, such as `/home/me/.pyenv/versions/3.11.7`; the executable
    /// alone where that folder has more in it than the runtime. `None`: all of it is in the system's own folders.
    pub fn folder(&self) -> Option<PathBuf> {
        if SYSTEM.iter().any(|folder| self.program.starts_with(folder)) {
            return None;
        }
        let own = self.program.parent().filter(|folder| folder.ends_with("bin")).and_then(Path::parent);
        let others = |folder: &Path| {
            folder.components().count() < 3 || self.home.as_ref().is_some_and(|home| home.starts_with(folder))
        };
        Some(own.filter(|folder| !others(folder)).unwrap_or(&self.program).to_owned())
    }
}

/// Folders that sandboxes always show.
const SYSTEM: [&str; 4] = ["/usr", "/bin", "/sbin", "/lib"];
