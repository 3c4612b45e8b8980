//! Files in which the kernel counts, opened once: a run is not to wait for that at its end.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// More than any of them says that is of use.
const LENGTH: usize = 4096;

/// A file that counts. The default is none.
#[derive(Debug, Default)]
pub(super) struct Counter(Option<File>);

impl Counter {
    /// The file of this name. None where the kernel has no such file, or the name is empty.
    pub(super) fn open(folder: Option<&Path>, name: &str) -> io::Result<Counter> {
        let Some(folder) = folder.filter(|_| !name.is_empty()) else { return Ok(Counter(None)) };
        match File::open(folder.join(name)) {
            Ok(file) => Ok(Counter(Some(file))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Counter(None)),
            Err(error) => Err(error),
        }
    }

    /// What it says now.
    pub(super) fn text(&self) -> Option<String> {
        let mut text = vec![0; LENGTH];
        let length = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        text.truncate(length);
        String::from_utf8(text).ok()
    }

    /// The number that is all of it.
    pub(super) fn number(&self) -> Option<u64> {
        self.text()?.trim().parse().ok()
    }
}
