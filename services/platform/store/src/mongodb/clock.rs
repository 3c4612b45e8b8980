//! Positions without a counter: a hybrid logical clock.
//!
//! A position is a time in microseconds since 1970, and below it [`PROCESS_BITS`] bits that tell processes apart. Positions
//! of a process only grow, and so do those of an aggregate, whoever appends: a writer whose clock is behind goes on from
//! the aggregate's newest position. The time in a position is the time at which its event happened.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use crate::record::{integer, micros};

/// How many bits tell processes apart. Two processes may have the same ones, and then, once in a while, two events of
/// different aggregates the same position: readers never stop between such two.
const PROCESS_BITS: u32 = 10;

/// How far positions may be ahead of this machine's clock before that is worth a warning.
const DRIFT: u64 = 5_000_000;

/// How much greater a position is that is a time later.
pub(super) const fn length(time: Duration) -> i64 {
    // The few constants that this is called with are minutes.
    (time.as_micros() as i64) << PROCESS_BITS
}

/// The least position of a time.
pub(super) fn least_at(time: SystemTime) -> i64 {
    micros(time).saturating_mul(1 << PROCESS_BITS)
}

/// Consecutive positions, each a microsecond after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Positions {
    first: u64,
}

impl Positions {
    /// The position of the event number `index` of a batch, from 0.
    pub(super) fn at(self, index: usize) -> i64 {
        integer(self.first.saturating_add((index as u64) << PROCESS_BITS))
    }

    /// The time of the event number `index` of a batch, from 0.
    pub(super) fn time(self, index: usize) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros((self.first >> PROCESS_BITS) + index as u64)
    }
}

/// Gives positions.
#[derive(Debug)]
pub(super) struct Clock {
    state: Mutex<State>,
    process: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The microsecond of the newest position.
    newest: u64,
    warned_at: u64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), process: rand::random::<u64>() % (1 << PROCESS_BITS) }
    }

    /// Positions for `count` events, greater than `after` and than all that were given before.
    pub(super) fn positions(&self, count: usize, after: i64) -> Positions {
        let now = u64::try_from(micros(SystemTime::now())).unwrap_or_default();
        let first = self.advance(now, count as u64, u64::try_from(after).unwrap_or_default());
        Positions { first: (first << PROCESS_BITS) | self.process }
    }

    /// A microsecond that was not given before.
    pub(super) fn tick(&self) -> i64 {
        let now = u64::try_from(micros(SystemTime::now())).unwrap_or_default();
        integer(self.advance(now, 1, 0))
    }

    fn advance(&self, now: u64, count: u64, after: u64) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = now.max(state.newest + 1).max((after >> PROCESS_BITS) + 1);
        state.newest = first + count.saturating_sub(1);
        if first > now + DRIFT && now > state.warned_at + 60_000_000 {
            state.warned_at = now;
            tracing::warn!(
                ahead_ms = (first - now) / 1_000,
                "events were recorded by a process whose clock is ahead of this one's; what follows them is dated alike"
            );
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_grow_whatever_the_clock_says() {
        let clock = Clock::new();
        let one = clock.positions(3, 0);
        assert!(one.at(0) < one.at(1) && one.at(1) < one.at(2));
        let two = clock.positions(1, 0);
        assert!(two.at(0) > one.at(2), "two batches of one process share nothing");
        let ahead = two.at(0) + length(Duration::from_secs(3_600));
        let three = clock.positions(2, ahead);
        assert!(three.at(0) > ahead, "a process whose clock is behind goes on from what is there");
        assert!(clock.positions(1, 0).at(0) > three.at(1));
        assert!(clock.tick() < clock.tick());
    }

    #[test]
    fn the_time_of_a_position_is_found_by_its_bounds() {
        let before = SystemTime::now() - Duration::from_millis(1);
        let positions = Clock::new().positions(2, 0);
        assert!(least_at(before) <= positions.at(0));
        for index in 0..2 {
            let time = positions.time(index);
            assert!(least_at(time) <= positions.at(index), "in `from` itself");
            assert!(least_at(time + Duration::from_micros(1)) > positions.at(index), "not in `until` itself");
        }
        assert!(positions.time(0) >= before && positions.time(1) <= SystemTime::now() + Duration::from_millis(1));
    }
}
