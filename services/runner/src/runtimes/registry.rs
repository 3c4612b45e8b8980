//! The registry file.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;

use super::{RegistryError, Version};

/// The languages that scripts can be written in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    #[serde(rename = "language", default)]
    pub(super) languages: Vec<Language>,
}

/// See the head of `runtimes.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Language {
    pub(super) name: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    pub(super) display: String,
    #[serde(default)]
    pub(super) package: String,
    pub(super) file_name: String,
    #[serde(default)]
    pub(super) extensions: Vec<String>,
    pub(super) executables: Vec<String>,
    #[serde(default)]
    pub(super) folders: Vec<String>,
    pub(super) version: Vec<String>,
    #[serde(default)]
    pub(super) unwanted: Vec<String>,
    #[serde(default)]
    pub(super) shims: Vec<String>,
    #[serde(default)]
    pub(super) requires: Vec<String>,
    #[serde(default)]
    pub(super) compile: Vec<String>,
    #[serde(default)]
    pub(super) compile_environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) fill_cache: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) prepared: Option<Prepared>,
    pub(super) prepared_since: Option<Version>,
}

/// How an interpreter is made to wait for its script.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Prepared {
    Python,
}

impl Language {
    /// Whether this version of it may be started before there is a script.
    pub(super) fn is_prepared(&self, version: &Version) -> bool {
        self.prepared.is_some_and(|Prepared::Python| self.prepared_since.as_ref().is_none_or(|since| version >= since))
    }
}

impl FromStr for Registry {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Registry, RegistryError> {
        let registry: Registry = toml::from_str(text).map_err(|error| RegistryError::Invalid(error.to_string()))?;
        let invalid = |name: &str, what: &str| Err(RegistryError::Invalid(format!("language {name:?}: {what}")));
        let mut names = std::collections::HashSet::new();
        for language in &registry.languages {
            let name = &language.name;
            if let Some(twice) = language.aliases.iter().chain([name]).find(|name| !names.insert((*name).clone())) {
                return invalid(name, &format!("the name {twice:?} is taken"));
            }
            if name.is_empty() || language.file_name.is_empty() || language.executables.is_empty() {
                return invalid(name, "name, file_name and executables must not be empty");
            }
            if let Some(what) = wrong_commands(language) {
                return invalid(name, what);
            }
        }
        Ok(registry)
    }
}

/// What is wrong with the commands of a language.
fn wrong_commands(language: &Language) -> Option<&'static str> {
    let begins = |command: &[String], places: &[&str]| {
        command.first().is_some_and(|program| places.iter().any(|place| program.starts_with(place)))
    };
    let has = |command: &[String], places: &[&str]| {
        command.iter().any(|part| places.iter().any(|place| part.contains(place)))
    };
    let (compile, command) = (&language.compile, &language.command);
    if language.prepared.is_some() && (!compile.is_empty() || *command != ["{program}", "{file}"]) {
        return Some("prepared is for languages whose command is [\"{program}\", \"{file}\"]");
    }
    if compile.is_empty() {
        if !begins(command, &["{program}"]) {
            return Some("command must begin with \"{program}\"");
        }
        if !has(command, &["{file}"]) {
            return Some("command must have \"{file}\" in it");
        }
        if !language.compile_environment.is_empty() || !language.fill_cache.is_empty() {
            return Some("compile_environment and fill_cache are for languages with compile");
        }
        return None;
    }
    if !begins(compile, &["{program}"]) || !has(compile, &["{file}", "{sources}", "{folder}"]) {
        return Some("compile must begin with \"{program}\" and have \"{file}\", \"{sources}\" or \"{folder}\" in it");
    }
    if !has(compile, &["{build}"]) || !has(command, &["{build}"]) {
        return Some("compile and command must have \"{build}\" in them");
    }
    if !begins(command, &["{build}/", "{bin}/", "{program}"]) {
        return Some("command must begin with \"{build}/\", \"{bin}/\" or \"{program}\"");
    }
    None
}
