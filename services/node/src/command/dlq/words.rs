//! Values of dead letters in words.

use std::time::SystemTime;

use runmesh_events::from_timestamp;
use runmesh_proto::dlq::{DeadLetter, DeadLetterState, Severity};

pub(super) use super::super::words::{NONE, ago, duration, error, name, or_none, short, sparkline, time};

/// A state, as the flag `--state` has it.
pub(super) fn state(state: DeadLetterState) -> String {
    name(state.as_str_name(), "DEAD_LETTER_STATE_")
}

/// How much trying again can help.
pub(super) fn severity(severity: Severity) -> String {
    name(severity.as_str_name(), "SEVERITY_")
}

/// When a letter is delivered again.
pub(super) fn next(letter: &DeadLetter, now: SystemTime) -> String {
    if !letter.waits_behind.is_empty() {
        return "waits".to_owned();
    }
    match letter.next_retry_at.as_ref().and_then(from_timestamp) {
        Some(time) => match time.duration_since(now) {
            Ok(left) if !left.is_zero() => format!("in {}", short(left)),
            _ => "now".to_owned(),
        },
        None => NONE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost_types::Timestamp;
    use runmesh_events::to_timestamp;

    use super::*;

    #[test]
    fn the_next_delivery_is_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| -> Option<Timestamp> {
            Some(to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
        };
        let letter = |seconds: Option<u64>, behind: &str| DeadLetter {
            next_retry_at: seconds.and_then(at),
            waits_behind: behind.to_owned(),
            ..DeadLetter::default()
        };
        assert_eq!(next(&letter(Some(1_000_090), ""), now), "in 1m");
        assert_eq!(next(&letter(Some(999_000), ""), now), "now");
        assert_eq!(next(&letter(None, ""), now), "-");
        assert_eq!(next(&letter(None, "other"), now), "waits");
    }

    #[test]
    fn values_of_enums_are_told_as_their_flags() {
        assert_eq!(state(DeadLetterState::Parked), "parked");
        assert_eq!(severity(Severity::Poison), "poison");
    }
}
