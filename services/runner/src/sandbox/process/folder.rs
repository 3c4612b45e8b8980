//! The working folder of one run: made, filled, removed.
//!
//! What is in it at the end was made by the script, so removing it follows no link and recurses into no depth.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::os;
use crate::sandbox::{PathError, RunSpec, SandboxError, SourceFile};

/// The name of the lock file in a root, which no working folder can have.
pub(super) const LOCK: &str = ".lock";

const LONGEST_PATH: usize = 1024;
const LONGEST_PART: usize = 255;
const DEEPEST_PATH: usize = 32;

/// A working folder. Removed when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    work: PathBuf,
    temporary: PathBuf,
    removed: bool,
}

/// The name of a run and of its folder.
pub(super) fn name_of(spec: &RunSpec) -> Result<String, SandboxError> {
    let id = &spec.execution_id;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.bytes().all(plain) {
        let reason = "is not 1 to 128 letters, digits, `-`, `_` and `.`, or begins with `.`";
        return Err(SandboxError::InvalidSpec { field: "execution_id", reason });
    }
    let part = &spec.part;
    if part.len() > 32 || !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        let reason = "is not at most 32 letters, digits and `-`";
        return Err(SandboxError::InvalidSpec { field: "part", reason });
    }
    // No id has a `+`, so that no two runs have one name.
    let plus = if part.is_empty() { "" } else { "+" };
    Ok(format!("{id}-{}{plus}{part}", spec.attempt))
}

pub(super) fn make_root(root: &Path) -> Result<(), SandboxError> {
    DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(SandboxError::io("make the folder", root))
}

/// A root that other users get through: this one, or else one for temporary files.
pub(super) fn root_for_others(root: &Path, name: &str) -> Result<PathBuf, SandboxError> {
    let passable = |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    let above = root.ancestors().skip(1).all(passable);
    let root = if above { root.to_owned() } else { std::env::temp_dir().join(name) };
    make_root(&root)?;
    let found = fs::symlink_metadata(&root).map_err(SandboxError::io("look at the folder", &root))?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(SandboxError::io("use the folder of another", root)(ErrorKind::PermissionDenied.into()));
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711))
        .map_err(SandboxError::io("open the folder", &root))?;
    Ok(root)
}

impl Folder {
    /// Makes the folder, with empty ones for work and temporary files in it that belong to this user if one is given.
    pub(super) fn create(root: &Path, spec: &RunSpec, user: Option<u32>) -> Result<Folder, SandboxError> {
        let path = root.join(name_of(spec)?);
        let make = |path: &Path, mode| DirBuilder::new().mode(mode).create(path);
        // Another user has to get through it.
        make(&path, if user.is_some() { 0o711 } else { 0o700 }).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                SandboxError::AlreadyRunning { execution_id: spec.execution_id.clone(), attempt: spec.attempt }
            }
            _ => SandboxError::io("make the folder", &path)(error),
        })?;
        // From here on dropping it removes it.
        let folder = Folder { work: path.join("work"), temporary: path.join("tmp"), path, removed: false };
        for inner in [&folder.work, &folder.temporary] {
            make(inner, 0o700)
                .and_then(|()| if user.is_some() { chown(inner, user, user) } else { Ok(()) })
                .map_err(SandboxError::io("make the folder", inner))?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn work(&self) -> &Path {
        &self.work
    }

    pub(super) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Removes the folder and everything in it.
    pub(super) fn remove(mut self) -> Result<(), SandboxError> {
        self.removed = true;
        remove(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(%error, "a working folder is left behind");
        }
    }
}

/// The working folders of a root.
pub(super) fn all(root: &Path) -> Result<Vec<PathBuf>, SandboxError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(root).map_err(SandboxError::io("list the folder", root))? {
        let entry = entry.map_err(SandboxError::io("list the folder", root))?;
        if entry.file_name() != LOCK && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Removes every working folder of a root, and says how many there were.
pub(super) fn remove_all(root: &Path) -> Result<usize, SandboxError> {
    let mut removed = 0;
    for folder in all(root)? {
        match remove(&folder) {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(%error, "a working folder is left behind"),
        }
    }
    Ok(removed)
}

/// Refuses paths that are not plainly inside the working folder.
pub(super) fn check_paths(files: &[SourceFile]) -> Result<(), SandboxError> {
    let mut folders = HashSet::new();
    let mut paths = HashSet::new();
    for file in files {
        let invalid = |source| SandboxError::InvalidPath { path: file.path.clone(), source };
        check_path(&file.path).map_err(invalid)?;
        folders.extend(file.path.match_indices('/').map(|(end, _)| &file.path[..end]));
        if !paths.insert(file.path.as_str()) {
            return Err(invalid(PathError::Conflict));
        }
    }
    match paths.intersection(&folders).next() {
        Some(path) => Err(SandboxError::InvalidPath { path: (*path).to_owned(), source: PathError::Conflict }),
        None => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), PathError> {
    if path.starts_with('/') {
        return Err(PathError::Absolute);
    }
    if path.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    if path.len() > LONGEST_PATH || path.split('/').count() > DEEPEST_PATH {
        return Err(PathError::TooLong);
    }
    path.split('/').try_for_each(|part| match part {
        "" => Err(PathError::Empty),
        "." | ".." => Err(PathError::Dots),
        part if part.len() > LONGEST_PART => Err(PathError::TooLong),
        _ => Ok(()),
    })
}

/// Processes that are just being killed may still write: then it is tried again.
pub(super) fn remove(path: &Path) -> Result<(), SandboxError> {
    let mut tries = 0;
    loop {
        match remove_once(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if tries < 50 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(SandboxError::io("remove the folder", path)(os(error))),
        }
    }
}

/// Folders inside are moved up to the top before they are emptied, so that neither the depth of what a script made nor
/// the length of its paths matters.
fn remove_once(path: &Path) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let top = open_folder(CWD, &path)?;
    let mut emptier = Emptier { top: &top, moved: 0, waiting: Vec::new() };
    emptier.empty(None)?;
    while let Some(name) = emptier.waiting.pop() {
        let folder = match open_folder(top.as_fd(), &name) {
            // Replaced by another with the same name.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        emptier.empty(Some(&folder))?;
        drop(folder);
        rustix::fs::unlinkat(&top, &*name, AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlinkat(CWD, &*path, AtFlags::REMOVEDIR)
}

struct Emptier<'a> {
    top: &'a OwnedFd,
    moved: u64,
    /// Folders in the top one, to be emptied.
    waiting: Vec<CString>,
}

impl Emptier<'_> {
    /// Removes all files of a folder, or of the top one, and leaves its folders waiting in the top one.
    fn empty(&mut self, folder: Option<&OwnedFd>) -> Result<(), Errno> {
        let from = folder.unwrap_or(self.top);
        let mut entries = Dir::read_from(from)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let removed = match rustix::fs::unlinkat(from, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(from, name, AtFlags::REMOVEDIR),
                other => other,
            };
            match (removed, folder) {
                (Ok(()) | Err(Errno::NOENT), _) => {}
                (Err(Errno::NOTEMPTY | Errno::EXIST), None) => self.waiting.push(name.to_owned()),
                (Err(Errno::NOTEMPTY | Errno::EXIST), Some(folder)) => self.move_up(folder, name)?,
                (Err(error), _) => return Err(error),
            }
        }
        Ok(())
    }

    fn move_up(&mut self, folder: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        loop {
            self.moved += 1;
            let fresh = CString::new(format!(".{}", self.moved)).map_err(|_| Errno::INVAL)?;
            let renamed = match rustix::fs::renameat(folder, name, self.top, &*fresh) {
                // A folder that may not be written to can't be moved.
                Err(Errno::ACCESS) => {
                    make_accessible(folder.as_fd(), name)?;
                    rustix::fs::renameat(folder, name, self.top, &*fresh)
                }
                other => other,
            };
            match renamed {
                // The script has used that name.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Ok(()) => {
                    self.waiting.push(fresh);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Opens a folder that is no link, whatever its mode.
fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            make_accessible(parent, name)?;
            rustix::fs::openat(parent, name, flags, Mode::empty())?
        }
        other => other?,
    };
    rustix::fs::fchmod(&folder, Mode::RWXU).ok();
    Ok(folder)
}

fn make_accessible(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|_| Errno::ACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str]) -> Option<PathError> {
        let file = |path: &&str| SourceFile { path: (*path).to_owned(), content: "".into() };
        match check_paths(&paths.iter().map(file).collect::<Vec<_>>()) {
            Ok(()) => None,
            Err(SandboxError::InvalidPath { source, .. }) => Some(source),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long = "x".repeat(256);
        let deep = ["x"; 33].join("/");
        for (path, error) in [
            ("", PathError::Empty),
            ("a//b", PathError::Empty),
            ("a/", PathError::Empty),
            ("/etc/passwd", PathError::Absolute),
            ("..", PathError::Dots),
            ("a/../../b", PathError::Dots),
            ("./a", PathError::Dots),
            ("a\0b", PathError::Control),
            ("a\nb", PathError::Control),
            (&long, PathError::TooLong),
            (&deep, PathError::TooLong),
        ] {
            assert_eq!(check(&[path]), Some(error), "{path:?}");
        }
        assert_eq!(check(&["a", "a"]), Some(PathError::Conflict));
        assert_eq!(check(&["a/b", "a"]), Some(PathError::Conflict));
        assert_eq!(check(&["a", "a/b"]), Some(PathError::Conflict));
        assert_eq!(check(&["a/b", "a/c", "..x", "-r", "ä b"]), None);
    }

    #[test]
    fn removal_copes_with_depth_modes_and_links() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        let top = root.path().join("run");
        fs::create_dir_all(top.join("work/.1/x")).unwrap();
        fs::create_dir_all(top.join(".1/x")).unwrap();
        std::os::unix::fs::symlink(&outside, top.join("work/link")).unwrap();
        std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
        // Deeper than one path can name.
        let mut folder = open_folder(CWD, &CString::new(top.as_os_str().as_bytes()).unwrap()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&folder, "deep", Mode::RWXU).unwrap();
            folder = open_folder(folder.as_fd(), c"deep").unwrap();
        }
        fs::set_permissions(top.join("work/.1/x"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(top.join("work"), fs::Permissions::from_mode(0o000)).unwrap();

        remove(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    }
}
