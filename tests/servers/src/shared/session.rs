//! The shared servers for as long as a run of tests takes.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    Kind, Outcome, State,
    shared::commands::{end, start},
};

/// A run of tests that uses the shared servers. Several may, at the same time; the last one ends those servers that no
/// `cargo xtask servers up` has started.
#[derive(Debug)]
pub struct Session {
    folder: PathBuf,
    /// Locked by all runs together. The kernel unlocks it for one that was killed.
    users: File,
    kinds: Vec<Kind>,
}

impl Session {
    /// Installs and starts what does not run. These are ended by [`Session::end`], also when this fails half-way.
    ///
    /// # Errors
    /// When one can't be installed or does not get ready.
    pub fn begin(kinds: &[Kind]) -> anyhow::Result<(Self, Outcome)> {
        Self::begin_in(&crate::folder(), kinds)
    }

    fn begin_in(folder: &Path, kinds: &[Kind]) -> anyhow::Result<(Self, Outcome)> {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let users = File::create(folder.join("users")).context("the lock of the test servers' users")?;
        users.lock_shared().context("the lock of the test servers' users")?;
        let session = Self { folder: folder.to_owned(), users, kinds: kinds.to_vec() };
        match start(folder, kinds, false) {
            Ok(outcome) => Ok((session, outcome)),
            Err(error) => {
                session.end().ok();
                Err(error)
            }
        }
    }

    /// Ends the servers, unless others use them or they were started to stay. Returns those that it has ended.
    ///
    /// # Errors
    /// When one does not end.
    pub fn end(self) -> anyhow::Result<Vec<Kind>> {
        self.users.unlock().context("the lock of the test servers' users")?;
        match self.users.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Vec::new()),
            Err(TryLockError::Error(error)) => return Err(error).context("the lock of the test servers' users"),
        }
        let state = State::read(&self.folder)?;
        let passing = |kind: &&Kind| state.get(**kind).is_some_and(|server| !server.stays);
        let kinds: Vec<Kind> = self.kinds.iter().filter(passing).copied().collect();
        end(&self.folder, &kinds)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use rustix::process::{Signal, kill_process};

    use super::*;
    use crate::{
        Server,
        process::{PATIENCE, pid, wait},
    };

    const KINDS: [Kind; 1] = [Kind::MongoDb];

    fn server(folder: &Path) -> anyhow::Result<Server> {
        State::read(folder)?.mongodb.context("FerretDB in the state")
    }

    #[test]
    fn a_server_that_was_started_to_stay_outlives_the_tests_and_is_started_again_where_it_was() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        assert_eq!(start(folder, &KINDS, true)?.started, KINDS);
        let first = server(folder)?;
        TcpStream::connect(first.address)?;
        assert!(start(folder, &KINDS, true)?.started.is_empty(), "it runs already");

        let (session, outcome) = Session::begin_in(folder, &KINDS)?;
        assert!(outcome.started.is_empty());
        assert!(session.end()?.is_empty());
        assert!(first.serves());

        // A crash, found by the next run of tests.
        kill_process(pid(first.pid)?, Signal::KILL)?;
        wait(PATIENCE, || Ok((!first.runs()).then_some(())))?;
        fs::write(folder.join("ferretdb/data/mark"), "")?;
        let (session, outcome) = Session::begin_in(folder, &KINDS)?;
        let second = server(folder)?;
        assert_eq!(outcome.started, KINDS);
        assert_eq!((second.address, second.uri.as_str()), (first.address, first.uri.as_str()));
        assert!(folder.join("ferretdb/data/mark").exists(), "its data is still there");
        assert!(session.end()?.is_empty());
        assert!(second.serves(), "it still stays");

        // A stopped process hears no SIGTERM.
        kill_process(pid(second.pid)?, Signal::STOP)?;
        assert_eq!(end(folder, &KINDS)?, KINDS);
        assert!(!second.runs() && !second.folder.exists());
        assert!(end(folder, &KINDS)?.is_empty());
        Ok(())
    }

    #[test]
    fn of_several_runs_of_tests_the_last_one_ends_the_servers() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        let (one, outcome) = Session::begin_in(folder, &KINDS)?;
        assert_eq!(outcome.started, KINDS);
        let (two, outcome) = Session::begin_in(folder, &KINDS)?;
        assert!(outcome.started.is_empty());
        let server = server(folder)?;
        assert!(one.end()?.is_empty());
        assert!(server.serves());
        assert_eq!(two.end()?, KINDS);
        assert!(!server.runs());

        let (three, _) = Session::begin_in(folder, &KINDS)?;
        start(folder, &KINDS, true)?;
        assert!(three.end()?.is_empty(), "somebody wants it to stay");
        assert_eq!(end(folder, &KINDS)?, KINDS);
        Ok(())
    }
}
