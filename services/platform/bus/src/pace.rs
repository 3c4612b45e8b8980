//! How fast redrives and replays send: at their rate, and slower while live traffic falls behind.

use std::time::Duration;

use tokio::time::Instant;

/// How many records the groups may be behind on, beside those that are sent, before it slows down.
const LAG: u64 = 1_000;

/// The slowest part of its rate.
const SLOWEST: f64 = 1.0 / 64.0;

/// For how long what was not sent may be made up for.
const BURST: Duration = Duration::from_millis(100);

/// Over what time the current rate is told.
const WINDOW: Duration = Duration::from_secs(1);

/// Says how many may be sent now.
#[derive(Debug)]
pub struct Pace {
    /// In a second. `None`: no limit.
    rate: Option<f64>,
    /// The part of the rate that live traffic leaves.
    share: f64,
    tokens: f64,
    at: Instant,
    /// Since when, and how many, for the current rate.
    counted: (Instant, u64),
    current: f64,
}

impl Pace {
    /// One of `rate` in a second; 0: no limit.
    pub fn new(rate: f64, now: Instant) -> Self {
        let rate = Some(rate).filter(|rate| *rate > 0.0);
        Self { rate, share: 1.0, tokens: 0.0, at: now, counted: (now, 0), current: 0.0 }
    }

    /// How many may be sent at `now`, at most `most`.
    pub fn allowed(&mut self, now: Instant, most: usize) -> usize {
        let Some(rate) = self.effective_rate() else { return most };
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let burst = (rate * BURST.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens + rate * passed).min(burst);
        let whole = self.tokens.floor().max(0.0);
        // A float becomes the nearest number that there is.
        (whole as usize).min(most)
    }

    /// So many were sent.
    pub fn sent(&mut self, count: usize, now: Instant) {
        self.tokens -= count as f64;
        self.counted.1 += count as u64;
        let passed = now.saturating_duration_since(self.counted.0);
        if passed >= WINDOW {
            self.current = self.counted.1 as f64 / passed.as_secs_f64();
            self.counted = (now, 0);
        }
    }

    /// The groups are behind by so many records of live traffic.
    pub fn lag(&mut self, records: u64) {
        self.share = if records > LAG { (self.share / 2.0).max(SLOWEST) } else { (self.share * 1.5).min(1.0) };
    }

    /// Whether it is slower than it may be.
    pub fn is_throttled(&self) -> bool {
        self.share < 1.0
    }

    /// How many were sent in a second lately.
    pub fn current(&self) -> f64 {
        self.current
    }

    fn effective_rate(&self) -> Option<f64> {
        match self.rate {
            Some(rate) => Some(rate * self.share),
            // Without a limit of its own it is slowed down from what it reached.
            None if self.is_throttled() => Some(self.current.max(1_000.0) * self.share),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are sent in ten seconds of looks every 7 ms.
    fn sent(pace: &mut Pace, start: Instant) -> usize {
        let mut sum = 0;
        for look in 1..=10_000 / 7 {
            let now = start + Duration::from_millis(7 * look);
            let allowed = pace.allowed(now, 256);
            pace.sent(allowed, now);
            sum += allowed;
        }
        sum
    }

    #[test]
    fn the_rate_is_kept_whatever_it_is() {
        for rate in [1.0, 3.5, 100.0, 1_234.0, 10_000.0] {
            let start = Instant::now();
            let sum = sent(&mut Pace::new(rate, start), start) as f64;
            let wanted = rate * 10.0;
            assert!((sum - wanted).abs() <= (wanted * 0.05).max(1.0), "{sum} of {wanted}");
        }
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000.0, start);
        assert_eq!(pace.allowed(start + Duration::from_secs(60), 10_000), 100);
    }

    #[test]
    fn it_slows_down_while_live_traffic_falls_behind() {
        let start = Instant::now();
        let mut pace = Pace::new(1_000.0, start);
        pace.lag(LAG + 1);
        pace.lag(LAG + 1);
        assert!(pace.is_throttled());
        let sum = sent(&mut pace, start);
        assert!((2_400..=2_600).contains(&sum), "{sum}");
        for _ in 0..10 {
            pace.lag(0);
        }
        assert!(!pace.is_throttled());
        let mut free = Pace::new(0.0, start);
        assert_eq!(free.allowed(start, 256), 256);
        free.lag(u64::MAX);
        assert!(free.allowed(start + Duration::from_millis(10), 256) < 256);
    }
}
