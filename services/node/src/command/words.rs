//! Values in words.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use runmesh_events::{from_duration, from_timestamp};

/// What stands where there is nothing.
pub(super) const NONE: &str = "-";

/// How much of an error has a place in a table.
const ERROR_LENGTH: usize = 100;

/// The text, or the sign for none.
pub(super) fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

/// The name of an enum's value.
pub(super) fn name(value: &str, prefix: &str) -> String {
    value.trim_start_matches(prefix).to_ascii_lowercase().replace('_', "-")
}

/// An error on one line of a table.
pub(super) fn error(text: &str) -> String {
    super::print::beginning(&super::print::plain(text), ERROR_LENGTH)
}

/// A time.
pub(super) fn time(time: Option<&Timestamp>) -> String {
    match time.and_then(from_timestamp) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => NONE.to_owned(),
    }
}

/// How long ago a time is.
pub(super) fn ago(time: Option<&Timestamp>, now: SystemTime) -> String {
    let past = time.and_then(from_timestamp).map(|time| now.duration_since(time).unwrap_or_default());
    past.map_or_else(|| NONE.to_owned(), |past| format!("{} ago", short(past)))
}

/// A duration by its greatest unit.
pub(super) fn short(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A duration as it is given on the command line.
pub(super) fn duration(duration: Option<&prost_types::Duration>) -> String {
    let duration = duration.and_then(from_duration).unwrap_or_default();
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Numbers as bars; the greatest of them is the highest.
pub(super) fn sparkline(numbers: &[i64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let numbers = numbers.iter().map(|number| u128::try_from(*number).unwrap_or_default());
    let greatest = numbers.clone().max().unwrap_or_default().max(1);
    let height = |number: u128| usize::try_from((number * 8).div_ceil(greatest)).unwrap_or_default();
    // Nothing is not a little.
    numbers.map(|number| height(number).checked_sub(1).and_then(|bar| BARS.get(bar)).copied().unwrap_or('·')).collect()
}

#[cfg(test)]
mod tests {
    use runmesh_events::to_timestamp;

    use super::*;

    #[test]
    fn a_trend_is_a_line_of_bars() {
        assert_eq!(sparkline(&[0, 1, 4, 8]), "·▁▄█");
        assert_eq!(sparkline(&[0, 0, 0]), "···");
        assert_eq!(sparkline(&[1, 1_000_000]), "▁█");
        assert_eq!(sparkline(&[i64::MAX, -1]), "█·");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn times_are_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds: u64| Some(to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        for (seconds, words) in
            [(999_999, "1s ago"), (999_000, "16m ago"), (900_000, "27h ago"), (0, "11d ago"), (1_000_001, "0s ago")]
        {
            assert_eq!(ago(at(seconds).as_ref(), now), words);
        }
        assert_eq!(ago(None, now), "-");
        assert_eq!(time(at(86_400).as_ref()), "1970-01-02T00:00:00Z");
    }
}
