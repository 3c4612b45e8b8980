//! Versions of interpreters, ordered as numbers.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A version: numbers with dots between them, such as `3.11.7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Version(Vec<u32>);

/// It is not numbers with dots between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a version is numbers with dots between them")]
pub struct InvalidVersion;

impl Version {
    /// Whether the first numbers are those of `beginning`, which may be empty.
    pub fn begins_with(&self, beginning: &str) -> bool {
        beginning.is_empty() || beginning.parse::<Version>().is_ok_and(|beginning| self.0.starts_with(&beginning.0))
    }

    /// The first number with a dot in it of what an interpreter says of itself.
    pub(super) fn find_in(text: &str) -> Option<Version> {
        text.split(|character: char| !character.is_ascii_digit() && character != '.')
            .map(|word| word.trim_matches('.'))
            .filter(|word| word.contains('.'))
            .find_map(|word| word.parse().ok())
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Version, InvalidVersion> {
        let numbers = text.split('.').map(|part| part.parse().map_err(|_| InvalidVersion));
        numbers.collect::<Result<_, _>>().map(Version)
    }
}

impl TryFrom<String> for Version {
    type Error = InvalidVersion;

    fn try_from(text: String) -> Result<Version, InvalidVersion> {
        text.parse()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, number) in self.0.iter().enumerate() {
            if place > 0 {
                formatter.write_str(".")?;
            }
            write!(formatter, "{number}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("3.11.7") > version("3.9.18"));
        assert!(version("3.11.7") > version("3.11"));
    }

    #[test]
    fn a_beginning_is_whole_numbers() {
        let version: Version = "3.11.7".parse().unwrap();
        for beginning in ["", "3", "3.11", "3.11.7"] {
            assert!(version.begins_with(beginning), "{beginning}");
        }
        for beginning in ["3.1", "3.11.70", "3.11.7.1", "2", "x", "3.", " 3"] {
            assert!(!version.begins_with(beginning), "{beginning}");
        }
    }

    #[test]
    fn versions_are_found_in_what_interpreters_say() {
        for (text, version) in [
            ("Python 3.11.7", "3.11.7"),
            ("v20.19.2\n", "20.19.2"),
            ("GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)", "5.2.15"),
            ("\nThis is perl 5, version 36, subversion 0 (v5.36.0) built for x86_64", "5.36.0"),
            ("ruby 3.1.2p20 (2022-04-12 revision 4491bb740a) [x86_64-linux-gnu]", "3.1.2"),
            ("PHP 8.2.29 (cli) (built: Jul  3 2025)", "8.2.29"),
            ("Lua 5.4.4  Copyright (C) 1994-2022 Lua.org, PUC-Rio", "5.4.4"),
        ] {
            assert_eq!(Version::find_in(text).unwrap().to_string(), version);
        }
        assert_eq!(Version::find_in("no version ... here"), None);
    }
}
