//! The parents of cgroups that nodes left behind when they were killed.
//!
//! Each node locks its own as long as it lives. Whose lock is free has nobody, in whatever container that was.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{PATIENCE, PREFIX, below, clear, discover};

/// Makes a parent, or takes on what an earlier node of the same name has left, and locks it as long as the file is open.
pub(super) fn make(parent: &Path) -> io::Result<File> {
    let since = Instant::now();
    loop {
        discover::make(parent)?;
        let held = match File::open(parent).map(|file| file.try_lock().map(|()| file)) {
            Ok(Ok(file)) => Some(file),
            // A node that was just killed may need a moment to let go of it, and one that begins looks whether it is held.
            Ok(Err(TryLockError::WouldBlock)) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) | Ok(Err(TryLockError::Error(error))) => return Err(error),
        };
        match held {
            // Nobody took it for an orphan before it was locked.
            Some(file) if parent.exists() => return Ok(file),
            _ if since.elapsed() > PATIENCE => return Err(io::Error::other("another node has it")),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Removes the other parents beside this one that nobody has.
pub(super) fn remove(own: &Path) {
    let is_parent = |folder: &Path| {
        let name = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(PREFIX));
        name.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    let beside = own.parent().map(below).unwrap_or_default();
    for orphan in beside.into_iter().filter(|folder| folder != own && is_parent(folder)) {
        let Ok(file) = File::open(&orphan) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        clear(&orphan);
        if fs::remove_dir(&orphan).is_ok() {
            tracing::debug!(cgroup = %orphan.display(), "removed what a node left behind that is no more");
        }
    }
}
