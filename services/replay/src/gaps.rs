//! When an event is due that keeps its distance from the one before.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The longest wait for one event, so that a time far away is no overflow. A hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Keeps the gaps between events, so many times as fast as they were. It holds no clock: who asks says what time it is.
#[derive(Debug, Clone)]
pub(crate) struct Gaps {
    /// 0: no gaps.
    speed: f64,
    /// An event's time, and when it was due.
    anchor: Option<(SystemTime, Instant)>,
}

impl Gaps {
    /// Gaps at this speed. `last` is the time of the event that was sent last: the gap behind it begins now.
    pub(crate) fn new(speed: f64, last: Option<SystemTime>, now: Instant) -> Self {
        Self { speed, anchor: last.map(|last| (last, now)) }
    }

    /// When an event of this time is due. The first one is at once; what is older than the one before is too.
    pub(crate) fn due(&mut self, time: SystemTime, now: Instant) -> Instant {
        if self.speed <= 0.0 {
            return now;
        }
        let (first, at) = *self.anchor.get_or_insert((time, now));
        let gap = time.duration_since(first).unwrap_or_default();
        let scaled = Duration::try_from_secs_f64(gap.as_secs_f64() / self.speed).unwrap_or(LONGEST).min(LONGEST);
        at.checked_add(scaled).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep_until};

    use super::*;

    /// Times that are so far apart, in milliseconds.
    const GAPS: [u64; 9] = [2_000, 500, 0, 10_000, 1_000, 40_000, 3_000, 250, 60_000];

    fn times() -> Vec<SystemTime> {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut times = vec![start];
        for gap in GAPS {
            times.push(*times.last().unwrap() + Duration::from_millis(gap));
        }
        times
    }

    /// When each event of these times is sent, from the first on.
    async fn sent(speed: f64, times: &[SystemTime]) -> Vec<Duration> {
        let start = Instant::now();
        let mut gaps = Gaps::new(speed, None, start);
        let mut sent = Vec::new();
        for time in times {
            sleep_until(gaps.due(*time, Instant::now())).await;
            sent.push(start.elapsed());
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn gaps_are_kept_at_every_speed() {
        for speed in [1.0, 10.0, 100.0] {
            let sent = sent(speed, &times()).await;
            for (gap, pair) in GAPS.iter().zip(sent.windows(2)) {
                let (wanted, found) = (*gap as f64 / 1_000.0 / speed, (pair[1] - pair[0]).as_secs_f64());
                // A timer goes by milliseconds.
                assert!((found - wanted).abs() <= (wanted * 0.05).max(0.001), "{found} s for {wanted} s at {speed}");
            }
            let (wanted, found) = (GAPS.iter().sum::<u64>() as f64 / 1_000.0 / speed, sent[9].as_secs_f64());
            assert!((found - wanted).abs() <= wanted * 0.05, "{found} s for {wanted} s at {speed}");
        }
    }

    #[test]
    fn without_a_speed_nothing_waits_and_what_is_older_does_not() {
        let now = Instant::now();
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(Gaps::new(0.0, Some(SystemTime::UNIX_EPOCH), now).due(later, now), now);
        let mut gaps = Gaps::new(2.0, Some(later), now);
        assert_eq!(gaps.due(SystemTime::UNIX_EPOCH, now), now);
        // What is resumed waits for the rest of the gap, and not for the pause.
        assert_eq!(gaps.due(later + Duration::from_secs(10), now), now + Duration::from_secs(5));
        let mut slow = Gaps::new(1e-300, Some(SystemTime::UNIX_EPOCH), now);
        assert_eq!(slow.due(later, now), now + LONGEST);
    }
}
