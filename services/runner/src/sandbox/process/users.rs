//! User ids for scripts, one per sandbox, where the node may hand them out: so that the kernel counts each script's
//! processes by themselves, and no two scripts are the same user to anyone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the ids begin if they can: beyond those of people, of services, and of usual containers.
const PREFERRED: u32 = 1_990_000_000;
/// How many a node has.
const COUNT: u32 = 1024;
/// How many nodes on one machine can have ids of their own.
const NODES: u32 = 32;

/// The ids of this node.
#[derive(Debug)]
pub(super) struct Users {
    first: u32,
    taken: Mutex<BTreeSet<u32>>,
    _lock: Option<Lock>,
}

/// Keeps other nodes on this machine from the same ids. The file is removed when dropped.
#[derive(Debug)]
struct Lock {
    path: std::path::PathBuf,
    _file: File,
}

/// An id that is in use. Given back when dropped.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: u32,
    users: Option<Arc<Users>>,
}

impl Users {
    /// Ids that this process can give to others, and that no other node has.
    ///
    /// # Errors
    ///
    /// There are none, and why.
    pub(super) fn find() -> Result<Users, String> {
        let map = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (users, groups) = (map("/proc/self/uid_map"), map("/proc/self/gid_map"));
        let first = first(&users, &groups).ok_or("not enough user ids are mapped here to give scripts their own")?;
        let run = Path::new("/run");
        let folder = if run.is_dir() { run.to_owned() } else { std::env::temp_dir() };
        let blocks = (0..NODES).map(|node| first + node * COUNT);
        let mut why = "all user ids for scripts are taken by other nodes".to_owned();
        for first in blocks {
            match Lock::take(folder.join(format!("runmesh-users-{first}.lock"))) {
                Ok(Some(lock)) => return Ok(Users { first, taken: Mutex::default(), _lock: Some(lock) }),
                Ok(None) => {}
                Err(error) => why = format!("{}: {error}", folder.display()),
            }
        }
        Err(why)
    }

    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// An id that no other sandbox has.
    pub(super) fn take(self: &Arc<Self>) -> Option<User> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one is the helper's own, where it gives up being root.
        let id = (self.first + 1..self.first + COUNT).find(|id| !taken.contains(id))?;
        taken.insert(id);
        Some(User { id, users: Some(Arc::clone(self)) })
    }
}

impl Lock {
    /// `None`: another node has it.
    fn take(path: std::path::PathBuf) -> std::io::Result<Option<Lock>> {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file =
            File::options().create(true).truncate(false).write(true).mode(0o600).custom_flags(flags).open(&path)?;
        // If its last holder removed it meanwhile, the next one makes another: then this lock is worth nothing.
        if file.try_lock().is_err() || file.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        Ok(Some(Lock { path, _file: file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

impl User {
    /// An id that is shared: there are no others.
    pub(super) fn shared(id: u32) -> User {
        User { id, users: None }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(users) = &self.users {
            users.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        }
    }
}

/// The first of enough ids in a row, for all nodes, that are mapped as users and as groups.
fn first(users: &str, groups: &str) -> Option<u32> {
    let ranges = |text: &str| -> Vec<(u64, u64)> {
        text.lines()
            .filter_map(|line| {
                let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
                let (inside, _, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
                Some((inside, inside + count))
            })
            .collect()
    };
    let (users, groups) = (ranges(users), ranges(groups));
    let fits = |first: u64| {
        let within = |(start, end): &(u64, u64)| *start <= first && first + u64::from(COUNT * NODES) <= *end;
        users.iter().any(within) && groups.iter().any(within)
    };
    let last = users.iter().map(|(_, end)| end.saturating_sub(u64::from(COUNT * NODES))).max()?;
    let first = [u64::from(PREFERRED), last].into_iter().find(|first| *first > 1000 && fits(*first))?;
    u32::try_from(first).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_where_they_are_mapped() {
        let whole = "         0          0 4294967295\n";
        assert_eq!(first(whole, whole), Some(PREFERRED));
        let container = "0 100000 65536\n";
        assert_eq!(first(container, container), Some(65_536 - COUNT * NODES));
        assert_eq!(first("0 1000 1\n", "0 1000 1\n"), None);
        assert_eq!(first(container, "0 1000 1\n"), None);
    }

    #[test]
    fn no_two_have_the_same_id_and_ids_come_back() {
        let users = Arc::new(Users { first: 2000, taken: Mutex::default(), _lock: None });
        let (one, two) = (users.take().unwrap(), users.take().unwrap());
        assert_ne!(one.id, two.id);
        let id = one.id;
        drop(one);
        assert_eq!(users.take().unwrap().id, id);
    }
}
