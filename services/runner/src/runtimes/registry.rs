//! The registry file.

use std::str::FromStr;

use serde::Deserialize;

use super::RegistryError;

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
    pub(super) command: Vec<String>,
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
            if language.command.first().is_none_or(|program| program != "{program}") {
                return invalid(name, "command must begin with \"{program}\"");
            }
            if !language.command.iter().any(|part| part.contains("{file}")) {
                return invalid(name, "command must have \"{file}\" in it");
            }
        }
        Ok(registry)
    }
}
