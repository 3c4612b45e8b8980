//! Times and durations, between the standard library's and protobuf's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::{Duration as ProtoDuration, Timestamp};

/// The last second of the year 9999, the greatest that protobuf's Timestamp allows.
const LAST_SECOND: u64 = 253_402_300_799;

/// The protobuf form of a time. Times before 1970 become 1970.
pub fn to_timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: nanos(since) }
}

/// The time that a protobuf timestamp means. `None` when it is before 1970, out of range or malformed.
pub fn from_timestamp(timestamp: &Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok().filter(|s| *s <= LAST_SECOND)?;
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// The protobuf form of a duration.
pub fn to_duration(duration: Duration) -> ProtoDuration {
    ProtoDuration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: nanos(duration) }
}

/// The duration that a protobuf duration means. `None` when it is negative or malformed.
pub fn from_duration(duration: &ProtoDuration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

fn nanos(duration: Duration) -> i32 {
    i32::try_from(duration.subsec_nanos()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_durations_and_times_are_refused() {
        assert_eq!(from_duration(&ProtoDuration { seconds: -1, nanos: 0 }), None);
        assert_eq!(from_duration(&ProtoDuration { seconds: 0, nanos: -1 }), None);
        assert_eq!(from_timestamp(&Timestamp { seconds: -1, nanos: 0 }), None);
        assert_eq!(from_timestamp(&Timestamp { seconds: i64::MAX, nanos: 0 }), None);
        assert_eq!(from_duration(&to_duration(Duration::from_millis(1_500))), Some(Duration::from_millis(1_500)));
    }
}
