//! The script's files: received from the node and written to the working folder, in which nothing of the script's own is
//! yet, so that their paths lead nowhere else.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};

use super::super::wire::{self, Fault, Placed, Script, Step};

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// Writes the files, which come over the socket. All of them are read, even if one can't be written.
pub(super) fn place(socket: &OwnedFd, script: &Script, user: Option<u32>) -> Result<(), Fault> {
    let mut made = HashSet::new();
    let mut result = Ok(());
    for file in &script.files {
        let path = script.directory.join(&file.path);
        let step = || format!("write the file {}", file.path);
        let opened = match &result {
            Ok(()) => open(&script.directory, file, &path, user, &mut made).map(Some).step(step()),
            Err(_) => Ok(None),
        };
        let mut to = opened.unwrap_or_else(|fault| {
            result = Err(fault);
            None
        });
        let written = copy(socket, file.size, to.as_mut()).step("receive the files")?.step(step());
        if result.is_ok() {
            result = written;
        }
    }
    result
}

fn open(
    directory: &Path,
    file: &Placed,
    path: &Path,
    user: Option<u32>,
    made: &mut HashSet<PathBuf>,
) -> io::Result<File> {
    let mut parents: Vec<&Path> =
        Path::new(&file.path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
    parents.reverse();
    for parent in parents {
        if made.insert(parent.to_owned()) {
            let parent = directory.join(parent);
            DirBuilder::new().mode(0o700).create(&parent)?;
            if let Some(user) = user {
                chown(parent, Some(user), Some(user))?;
            }
        }
    }
    let mode = if file.executable { 0o700 } else { 0o600 };
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if let Some(user) = user {
        fchown(&opened, Some(user), Some(user))?;
    }
    Ok(opened)
}

/// Copies what follows on the socket. The outer error is of the socket, the inner one of the file.
fn copy(socket: &OwnedFd, size: u64, mut to: Option<&mut File>) -> io::Result<io::Result<()>> {
    let mut buffer = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE))];
    let mut left = size;
    let mut result = Ok(());
    while left > 0 {
        let count = buffer.len().min(usize::try_from(left).unwrap_or(buffer.len()));
        wire::receive_bytes(socket, &mut buffer[..count])?;
        left -= count as u64;
        if let (Ok(()), Some(file)) = (&result, &mut to) {
            result = file.write_all(&buffer[..count]);
        }
    }
    Ok(result)
}
