//! The queue: who has a slot, who waits, who is next. Pure state, no I/O.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::SystemTime,
};

use runmesh_proto::event::QueuePriority;

/// Where a waiting execution stands: the least is next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: i32,
    since: SystemTime,
    execution_id: String,
}

/// An execution that was given a slot out of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The execution.
    pub execution_id: String,
    /// Its priority.
    pub priority: QueuePriority,
    /// Since when it waited.
    pub since: SystemTime,
}

/// Slots and those who want one.
#[derive(Debug)]
pub struct Queue {
    slots: usize,
    granted: HashSet<String>,
    waiting: BTreeSet<Rank>,
    ranks: HashMap<String, Rank>,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It has a slot.
    Granted,
    /// It waits, at this place, from 1.
    Waiting(usize),
}

impl Queue {
    /// A queue in front of this many slots.
    pub fn new(slots: usize) -> Self {
        Self { slots, granted: HashSet::new(), waiting: BTreeSet::new(), ranks: HashMap::new() }
    }

    /// An execution that had a slot before a restart has it still.
    pub fn restore_granted(&mut self, execution_id: &str) {
        self.granted.insert(execution_id.to_owned());
    }

    /// Asks for a slot. Asking again changes nothing.
    pub fn claim(&mut self, execution_id: &str, priority: QueuePriority, since: SystemTime) -> Admission {
        if self.granted.contains(execution_id) {
            return Admission::Granted;
        }
        if let Some(rank) = self.ranks.get(execution_id) {
            return Admission::Waiting(self.place(rank));
        }
        if self.granted.len() < self.slots && self.waiting.is_empty() {
            self.granted.insert(execution_id.to_owned());
            return Admission::Granted;
        }
        self.wait(execution_id, priority, since)
    }

    /// Puts an execution in the queue, even while a slot is free: [`Queue::admit_next`] gives it out.
    pub fn wait(&mut self, execution_id: &str, priority: QueuePriority, since: SystemTime) -> Admission {
        let priority = match priority {
            QueuePriority::Unspecified => QueuePriority::Normal,
            priority => priority,
        };
        let rank = Rank { priority: priority as i32, since, execution_id: execution_id.to_owned() };
        let place = self.place(&rank);
        self.waiting.insert(rank.clone());
        self.ranks.insert(execution_id.to_owned(), rank);
        Admission::Waiting(place)
    }

    /// Gives a slot back, or a place in the queue. Returns whether there was one.
    pub fn release(&mut self, execution_id: &str) -> bool {
        if let Some(rank) = self.ranks.remove(execution_id) {
            self.waiting.remove(&rank);
            return true;
        }
        self.granted.remove(execution_id)
    }

    /// Gives a free slot to the next in the queue. `None`: nobody waits, or no slot is free.
    pub fn admit_next(&mut self) -> Option<Next> {
        if self.granted.len() >= self.slots {
            return None;
        }
        let rank = self.waiting.pop_first()?;
        self.ranks.remove(&rank.execution_id);
        self.granted.insert(rank.execution_id.clone());
        let priority = QueuePriority::try_from(rank.priority).unwrap_or(QueuePriority::Normal);
        Some(Next { execution_id: rank.execution_id, priority, since: rank.since })
    }

    /// Takes back what [`Queue::admit_next`] gave: it could not be announced. It waits again, at its place.
    pub fn put_back(&mut self, next: &Next) {
        // Unless it was released in the meantime.
        if self.granted.remove(&next.execution_id) {
            self.wait(&next.execution_id, next.priority, next.since);
        }
    }

    /// The number of slots that are given.
    pub fn in_use(&self) -> usize {
        self.granted.len()
    }

    /// The number of executions that wait.
    pub fn depth(&self) -> usize {
        self.waiting.len()
    }

    fn place(&self, rank: &Rank) -> usize {
        self.waiting.range(..rank).count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn slots_go_by_priority_and_then_by_time_and_never_to_more_than_there_are() {
        let mut queue = Queue::new(1);
        assert_eq!(queue.claim("a", QueuePriority::Normal, at(1)), Admission::Granted);
        assert_eq!(queue.claim("b", QueuePriority::Normal, at(2)), Admission::Waiting(1));
        assert_eq!(queue.claim("c", QueuePriority::Unspecified, at(3)), Admission::Waiting(2));
        assert_eq!(queue.claim("d", QueuePriority::High, at(4)), Admission::Waiting(1));
        assert_eq!(
            queue.claim("c", QueuePriority::Normal, at(9)),
            Admission::Waiting(3),
            "asking again changes nothing"
        );
        assert_eq!(queue.admit_next(), None);
        let mut order = Vec::new();
        let mut holder = "a".to_owned();
        while queue.release(&holder) {
            let Some(next) = queue.admit_next() else { break };
            assert_eq!(queue.in_use(), 1);
            order.push(next.execution_id.clone());
            holder = next.execution_id;
        }
        assert_eq!(order, ["d", "b", "c"]);
        assert_eq!((queue.in_use(), queue.depth()), (0, 0));
    }

    #[test]
    fn one_that_is_released_while_it_is_being_granted_is_not_put_back() {
        let mut queue = Queue::new(1);
        queue.claim("a", QueuePriority::Normal, at(1));
        queue.claim("b", QueuePriority::Normal, at(2));
        queue.release("a");
        let next = queue.admit_next().unwrap();
        queue.release("b");
        queue.put_back(&next);
        assert_eq!((queue.in_use(), queue.depth()), (0, 0));
    }

    #[test]
    fn one_that_gives_up_waiting_leaves_no_trace() {
        let mut queue = Queue::new(1);
        queue.claim("a", QueuePriority::Normal, at(1));
        queue.claim("b", QueuePriority::Normal, at(2));
        assert!(queue.release("b"));
        assert!(!queue.release("b"));
        assert!(queue.release("a"));
        assert_eq!(queue.admit_next(), None);
        assert_eq!((queue.in_use(), queue.depth()), (0, 0));
    }
}
