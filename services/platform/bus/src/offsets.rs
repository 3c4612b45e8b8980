//! Which offset may be committed when records finish in any order.

use std::collections::BTreeSet;

/// The records of one lane that are being worked on. Pure state, no I/O.
#[derive(Debug, Clone, Default)]
pub struct ContiguousOffsets {
    in_flight: BTreeSet<u64>,
    newest: Option<u64>,
    committed: Option<u64>,
}

impl ContiguousOffsets {
    /// A record was taken on. Offsets grow but need not be without gaps.
    pub fn started(&mut self, offset: u64) {
        self.in_flight.insert(offset);
        self.newest = self.newest.max(Some(offset));
    }

    /// A record is finished.
    pub fn finished(&mut self, offset: u64) {
        self.in_flight.remove(&offset);
    }

    /// The records from this offset on are not going to be finished here.
    pub fn give_up_from(&mut self, offset: u64) {
        self.in_flight.split_off(&offset);
        self.newest = self.newest.min(offset.checked_sub(1));
    }

    /// Whether nothing is being worked on.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The greatest offset such that it and all before it are finished, if it is more than was committed before.
    pub fn to_commit(&self) -> Option<u64> {
        let finished = match self.in_flight.first() {
            Some(0) => None,
            Some(oldest) => Some(oldest - 1),
            None => self.newest,
        };
        finished.filter(|offset| self.committed.is_none_or(|committed| *offset > committed) && self.newest.is_some())
    }

    /// This offset was committed.
    pub fn committed(&mut self, offset: u64) {
        self.committed = self.committed.max(Some(offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_record_holds_back_all_behind_it() {
        let mut offsets = ContiguousOffsets::default();
        assert_eq!(offsets.to_commit(), None);
        for offset in [4, 7, 9] {
            offsets.started(offset);
        }
        offsets.finished(9);
        offsets.finished(7);
        assert_eq!(offsets.to_commit(), Some(3));
        offsets.committed(3);
        assert_eq!(offsets.to_commit(), None);
        offsets.finished(4);
        assert_eq!(offsets.to_commit(), Some(9));
        offsets.committed(9);
        assert_eq!(offsets.to_commit(), None);
        assert!(offsets.is_idle());
    }

    #[test]
    fn the_first_offset_of_all_is_committed_only_when_it_is_finished() {
        let mut offsets = ContiguousOffsets::default();
        offsets.started(0);
        assert_eq!(offsets.to_commit(), None);
        offsets.finished(0);
        assert_eq!(offsets.to_commit(), Some(0));
    }

    #[test]
    fn what_is_given_up_is_neither_waited_for_nor_committed() {
        let mut offsets = ContiguousOffsets::default();
        for offset in 4..=9 {
            offsets.started(offset);
        }
        offsets.finished(9);
        offsets.give_up_from(7);
        assert!(!offsets.is_idle());
        for offset in 4..=6 {
            offsets.finished(offset);
        }
        assert!(offsets.is_idle());
        assert_eq!(offsets.to_commit(), Some(6));
        offsets.finished(8);
        assert_eq!(offsets.to_commit(), Some(6));

        let mut offsets = ContiguousOffsets::default();
        offsets.started(0);
        offsets.give_up_from(0);
        assert_eq!((offsets.to_commit(), offsets.is_idle()), (None, true));
    }
}
