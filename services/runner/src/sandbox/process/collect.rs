//! The files of a working folder, given back after a run. Everything of the script has ended by then, but what it left is
//! its own: links are not followed, and only plain files are read.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::sandbox::{Collect, SourceFile};

/// How deep folders may be nested.
const DEEPEST: usize = 32;

/// Why files are not given back, in words.
#[derive(Debug)]
pub(super) enum Uncollected {
    /// Because of what the program left.
    Program(String),
    /// They can't be read.
    Sandbox(String),
}

/// An error about a file or folder. A missing one, or a link in its place, is what the program left.
fn failed(path: &str) -> impl FnOnce(rustix::io::Errno) -> Uncollected {
    use rustix::io::Errno;
    let path = path.to_owned();
    move |error| {
        let words = format!("{path}: {}", io::Error::from(error));
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG => {
                Uncollected::Program(words)
            }
            _ => Uncollected::Sandbox(words),
        }
    }
}

/// All plain files below a folder of the working folder, in the order of their paths.
///
/// # Errors
///
/// There are too many, they are too large, a name is not UTF-8, or one can't be read.
pub(super) fn collect(folder: &OwnedFd, limits: &Collect) -> Result<Vec<SourceFile>, Uncollected> {
    let mut inner = folder.try_clone().map_err(|error| Uncollected::Sandbox(error.to_string()))?;
    for part in limits.folder.split('/').filter(|part| !part.is_empty()) {
        if part == ".." {
            return Err(Uncollected::Program(format!("{}: leads out of the working folder", limits.folder)));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        inner = rustix::fs::openat(&inner, part, flags, Mode::empty()).map_err(failed(&limits.folder))?;
    }
    let mut found = Found { limits, left: limits.bytes, files: Vec::new() };
    found.add(inner.as_fd(), limits.folder.trim_matches('/'), 0)?;
    found.files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found.files)
}

struct Found<'a> {
    limits: &'a Collect,
    left: u64,
    files: Vec<SourceFile>,
}

impl Found<'_> {
    fn add(&mut self, folder: BorrowedFd<'_>, at: &str, depth: usize) -> Result<(), Uncollected> {
        if depth > DEEPEST {
            return Err(Uncollected::Program(format!("{at}: folders are nested deeper than {DEEPEST}")));
        }
        for entry in Dir::read_from(folder).map_err(failed(at))? {
            let entry = entry.map_err(failed(at))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let text =
                name.to_str().map_err(|_| Uncollected::Program(format!("{at}: the name of a file is not UTF-8")))?;
            let path = if at.is_empty() { text.to_owned() } else { format!("{at}/{text}") };
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&path))?;
            let open =
                |flags| rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let inner = open(OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed(&path))?;
                    self.add(inner.as_fd(), &path, depth + 1)?;
                }
                FileType::RegularFile => {
                    let file = open(OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed(&path))?;
                    self.read(File::from(file), path)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read(&mut self, file: File, path: String) -> Result<(), Uncollected> {
        if self.files.len() >= self.limits.files {
            return Err(Uncollected::Program(format!("there are more than {} files", self.limits.files)));
        }
        let mut content = Vec::new();
        // One more than allowed, to tell whether there is more.
        let read = file.take(self.left.saturating_add(1)).read_to_end(&mut content);
        let read = read.map_err(|error| Uncollected::Sandbox(format!("{path}: {error}")))? as u64;
        if read > self.left {
            return Err(Uncollected::Program(format!("the files have more than {} bytes", self.limits.bytes)));
        }
        self.left -= read;
        self.files.push(SourceFile { path, content: content.into() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn plain_files_alone_are_given_back() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "inner").unwrap();
        fs::write(folder.path().join("Main.class"), "outer").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("a/etc")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let all = |files, bytes| Collect { folder: String::new(), files, bytes };
        let files = collect(&open(folder.path()), &all(2, 10)).unwrap();
        let found: Vec<(&str, &[u8])> = files.iter().map(|file| (&*file.path, &*file.content)).collect();
        assert_eq!(found, [("Main.class", &b"outer"[..]), ("a/b/file", b"inner")]);
        let refused = |limits: &Collect| matches!(collect(&open(folder.path()), limits), Err(Uncollected::Program(_)));
        assert!(refused(&all(1, 10)) && refused(&all(2, 9)));
        let inner = collect(&open(folder.path()), &Collect { folder: "a".to_owned(), ..all(2, 10) }).unwrap();
        assert_eq!(inner.iter().map(|file| &*file.path).collect::<Vec<_>>(), ["a/b/file"]);
        for folder_of_another in ["a/etc", "..", "link", "none"] {
            let elsewhere = Collect { folder: folder_of_another.to_owned(), ..all(99, 1 << 20) };
            assert!(collect(&open(&folder.path().join("a")), &elsewhere).is_err(), "{folder_of_another}");
        }
    }
}
