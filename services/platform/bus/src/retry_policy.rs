//! Retry policies: when a dead letter is delivered again by itself, and when it is left to a person.

mod set;

use std::time::{Duration, SystemTime};

use runmesh_proto::event::RetryPreset;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Severity;
pub use set::{Override, Policies, PolicySet};

/// The longest wait.
pub const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The greatest number of retries.
pub const MOST_RETRIES: u32 = 100;

/// When a dead letter is delivered again by itself. A value that does not change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// How often a letter is delivered again. 0: a person decides.
    pub max_retries: u32,
    /// How long the first wait is.
    pub first_wait: Duration,
    /// How long a wait is at most.
    pub max_wait: Duration,
    /// What each wait is multiplied by for the next one.
    pub multiplier: f64,
    /// By which part of itself a wait may be longer or shorter.
    pub jitter: f64,
    /// Whether a letter whose retries are used up is given up rather than parked.
    pub discard_exhausted: bool,
    /// Whether later events of the same aggregate wait in the group until the letter is over.
    pub keep_order: bool,
}

/// What is done about a delivery that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is delivered again at this time.
    Retry(SystemTime),
    /// It is left to a person, for this reason.
    Park(String),
    /// It is given up, for this reason.
    Discard(String),
}

impl RetryPolicy {
    /// The policy of a preset. `RETRY_PRESET_UNSPECIFIED` is `default`.
    pub const fn preset(preset: RetryPreset) -> Self {
        let (max_retries, first, max, multiplier) = match preset {
            RetryPreset::Aggressive => (5, 30, 300, 2.0),
            RetryPreset::Cautious => (3, 60, 600, 3.0),
            RetryPreset::Immediate => (3, 0, 0, 1.0),
            RetryPreset::Manual => (0, 0, 0, 1.0),
            RetryPreset::Default | RetryPreset::Unspecified => (4, 60, 1_800, 2.5),
        };
        Self {
            max_retries,
            first_wait: Duration::from_secs(first),
            max_wait: Duration::from_secs(max),
            multiplier,
            jitter: if first == 0 { 0.0 } else { 0.1 },
            discard_exhausted: false,
            keep_order: false,
        }
    }

    /// The wait before the retry number `retry`, from 1, without jitter.
    pub fn wait(&self, retry: u32) -> Duration {
        let factor = self.multiplier.powi(i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX));
        let seconds = self.first_wait.as_secs_f64() * factor;
        // What is greater than any wait, or no number, is the greatest.
        if seconds < self.max_wait.as_secs_f64() { Duration::from_secs_f64(seconds) } else { self.max_wait }
    }

    /// The same with the jitter that this letter has in it: a random number that follows from the letter's id, so that it
    /// is the same whoever computes it.
    pub fn wait_of(&self, letter_id: &str, retry: u32) -> Duration {
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{letter_id}\n{retry}").as_bytes()).as_u64_pair().0;
        // From -1 to 1.
        let share = (hash >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        self.wait(retry).mul_f64((1.0 + self.jitter * share).max(0.0))
    }

    /// What is done about a letter that failed at `now` and was delivered again `retries` times before that.
    pub fn decide(&self, letter_id: &str, severity: Severity, retries: u32, now: SystemTime) -> Decision {
        if severity != Severity::Transient {
            return Decision::Park(format!("the error is {}: trying again does not help", severity.as_str()));
        }
        if self.max_retries == 0 {
            return Decision::Park("its policy leaves it to a person".to_owned());
        }
        if retries < self.max_retries {
            return Decision::Retry(now + self.wait_of(letter_id, retries + 1));
        }
        let reason = format!("it failed after {retries} retries, of which its policy has {}", self.max_retries);
        if self.discard_exhausted { Decision::Discard(reason) } else { Decision::Park(reason) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(policy: RetryPolicy) -> Vec<f64> {
        (1..=policy.max_retries).map(|retry| policy.wait(retry).as_secs_f64()).collect()
    }

    #[test]
    fn the_waits_of_each_preset() {
        assert_eq!(seconds(RetryPolicy::preset(RetryPreset::Aggressive)), [30.0, 60.0, 120.0, 240.0, 300.0]);
        assert_eq!(seconds(RetryPolicy::preset(RetryPreset::Cautious)), [60.0, 180.0, 540.0]);
        assert_eq!(seconds(RetryPolicy::preset(RetryPreset::Immediate)), [0.0, 0.0, 0.0]);
        assert_eq!(seconds(RetryPolicy::preset(RetryPreset::Default)), [60.0, 150.0, 375.0, 937.5]);
        assert!(seconds(RetryPolicy::preset(RetryPreset::Manual)).is_empty());
        let long = RetryPolicy { multiplier: 100.0, max_retries: 100, ..RetryPolicy::preset(RetryPreset::Default) };
        assert_eq!(long.wait(100), Duration::from_secs(1_800));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_uses_them() {
        let policy = RetryPolicy::preset(RetryPreset::Aggressive);
        let waits: Vec<f64> = (0..1_000).map(|id| policy.wait_of(&format!("{id}"), 1).as_secs_f64()).collect();
        assert!(waits.iter().all(|wait| (27.0..=33.0).contains(wait)), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait < 27.6) && waits.iter().any(|wait| *wait > 32.4));
        let mean = waits.iter().sum::<f64>() / 1_000.0;
        assert!((29.7..30.3).contains(&mean), "{mean}");
        assert_eq!(policy.wait_of("a", 2), policy.wait_of("a", 2));
    }

    #[test]
    fn a_letter_ends_parked_or_discarded() {
        let policy = RetryPolicy::preset(RetryPreset::Immediate);
        let now = SystemTime::now();
        assert_eq!(policy.decide("a", Severity::Transient, 2, now), Decision::Retry(now));
        assert!(
            matches!(policy.decide("a", Severity::Transient, 3, now), Decision::Park(why) if why.contains("3 retries"))
        );
        for severity in [Severity::Permanent, Severity::Poison] {
            assert!(
                matches!(policy.decide("a", severity, 0, now), Decision::Park(why) if why.contains(severity.as_str()))
            );
        }
        let discards = RetryPolicy { discard_exhausted: true, ..policy };
        assert!(matches!(discards.decide("a", Severity::Transient, 9, now), Decision::Discard(_)));
        assert!(matches!(discards.decide("a", Severity::Permanent, 0, now), Decision::Park(_)));
        let manual = RetryPolicy::preset(RetryPreset::Manual);
        assert!(matches!(manual.decide("a", Severity::Transient, 0, now), Decision::Park(_)));
    }
}
