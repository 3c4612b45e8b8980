//! User ids for scripts, one per sandbox, where the node may hand them out: so that the kernel counts each script's
//! processes by themselves, and no two scripts are the same user to anyone.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the ids begin if they can: beyond those of people, of services, and of usual containers.
const PREFERRED: u32 = 1_990_000_000;
/// How many there are at most.
const COUNT: u32 = 4096;

/// The ids.
#[derive(Debug)]
pub(super) struct Users {
    first: u32,
    taken: Mutex<BTreeSet<u32>>,
}

/// An id that is in use. Given back when dropped.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: u32,
    users: Option<Arc<Users>>,
}

impl Users {
    /// The ids that this process can give to others. `None`: not enough are mapped into its user namespace.
    pub(super) fn find() -> Option<Users> {
        let map = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let first = first(&map("/proc/self/uid_map"), &map("/proc/self/gid_map"))?;
        Some(Users { first, taken: Mutex::default() })
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

/// The first of enough ids in a row that are mapped as users and as groups.
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
        let within = |(start, end): &(u64, u64)| *start <= first && first + u64::from(COUNT) <= *end;
        users.iter().any(within) && groups.iter().any(within)
    };
    let last = users.iter().map(|(_, end)| end.saturating_sub(u64::from(COUNT))).max()?;
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
        assert_eq!(first(container, container), Some(65_536 - COUNT));
        assert_eq!(first("0 1000 1\n", "0 1000 1\n"), None);
        assert_eq!(first(container, "0 1000 1\n"), None);
    }

    #[test]
    fn no_two_have_the_same_id_and_ids_come_back() {
        let users = Arc::new(Users { first: 2000, taken: Mutex::default() });
        let (one, two) = (users.take().unwrap(), users.take().unwrap());
        assert_ne!(one.id, two.id);
        let id = one.id;
        drop(one);
        assert_eq!(users.take().unwrap().id, id);
    }
}
