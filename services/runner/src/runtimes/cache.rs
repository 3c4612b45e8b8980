//! Remembers the versions of executables, for as long as these stay the same files.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::version::Version;

#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Cache {
    #[serde(default)]
    executables: BTreeMap<String, Entry>,
    #[serde(skip)]
    changed: bool,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Entry {
    size: u64,
    modified: i64,
    modified_nanoseconds: i64,
    inode: u64,
    version: String,
}

impl Cache {
    /// What was remembered; nothing if there is no such file or it can't be used.
    pub(super) fn load(path: Option<&PathBuf>) -> Cache {
        let text = path.and_then(|path| fs::read_to_string(path).ok());
        text.and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
    }

    pub(super) fn get(&self, program: &str, metadata: &Metadata) -> Option<Version> {
        let entry = self.executables.get(program)?;
        let version = entry.version.parse().ok()?;
        (*entry == Entry::new(metadata, &version)).then_some(version)
    }

    pub(super) fn put(&mut self, program: &str, metadata: &Metadata, version: &Version) {
        self.executables.insert(program.to_owned(), Entry::new(metadata, version));
        self.changed = true;
    }

    /// Keeps it for the next time, if there is something new. A node that reads meanwhile sees the old file or the new.
    pub(super) fn store(&self, path: Option<&PathBuf>) {
        if let Some(path) = path.filter(|_| self.changed)
            && let Err(error) = self.write(path)
        {
            tracing::debug!(path = %path.display(), %error, "could not remember the versions of the runtimes");
        }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        fs::write(&fresh, text)?;
        fs::rename(fresh, path)
    }
}

impl Entry {
    fn new(metadata: &Metadata, version: &Version) -> Entry {
        Entry {
            size: metadata.size(),
            modified: metadata.mtime(),
            modified_nanoseconds: metadata.mtime_nsec(),
            inode: metadata.ino(),
            version: version.to_string(),
        }
    }
}
