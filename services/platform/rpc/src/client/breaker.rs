//! Whether a server is to be called: a state machine without a clock of its own.

use std::time::{Duration, Instant};

/// When a server is left out, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BreakerConfig {
    /// Failures in a row.
    pub(crate) failures: u32,
    /// The first time.
    pub(crate) time: Duration,
    /// The longest time.
    pub(crate) maximum: Duration,
}

/// One server's record.
#[derive(Debug)]
pub(crate) struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Ejections in a row, for their length.
    ejections: u32,
    /// Counts changes of the state: the result of a call from before the last one says nothing of it.
    epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is called. `failures` in a row; since when.
    Closed { failures: u32, since: Instant },
    /// It is left out.
    Open,
    /// One call may find out. Whether it is on its way.
    HalfOpen { is_probed: bool },
}

/// A call that the breaker knows of. Its result is to be told with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admission {
    epoch: u64,
    is_probe: bool,
}

/// What a call says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answers.
    Good,
    /// It failed.
    Bad,
    /// It can't be reached, which needs no second proof.
    Unreachable,
    /// The call did not come so far.
    Unknown,
}

impl Breaker {
    pub(crate) fn new(config: BreakerConfig, now: Instant) -> Self {
        Self { config, state: State::Closed { failures: 0, since: now }, ejections: 0, epoch: 0 }
    }

    /// Whether the server should be called.
    pub(crate) fn is_available(&self) -> bool {
        matches!(self.state, State::Closed { .. } | State::HalfOpen { is_probed: false })
    }

    /// Notes a call. It may be made to a server that is left out too, when there is no better one.
    pub(crate) fn admit(&mut self) -> Admission {
        let is_probe = self.state == State::HalfOpen { is_probed: false };
        if is_probe {
            self.state = State::HalfOpen { is_probed: true };
        }
        Admission { epoch: self.epoch, is_probe }
    }

    /// Notes the result of a call. `Some`: the server is left out from now on, for this time; `jitter` (0 to 1) lengthens
    /// it by up to a quarter, so that servers that failed together do not return together.
    pub(crate) fn result(&mut self, call: Admission, verdict: Verdict, now: Instant, jitter: f64) -> Option<Duration> {
        if call.epoch != self.epoch {
            return None;
        }
        match (verdict, self.state) {
            (Verdict::Unknown, State::HalfOpen { .. }) if call.is_probe => {
                self.state = State::HalfOpen { is_probed: false };
                None
            }
            (Verdict::Unknown, _) | (Verdict::Bad | Verdict::Unreachable, State::Open) => None,
            (Verdict::Good, State::Closed { since, .. }) => {
                self.state = State::Closed { failures: 0, since };
                None
            }
            (Verdict::Good, State::Open | State::HalfOpen { .. }) => {
                self.change(State::Closed { failures: 0, since: now });
                None
            }
            (Verdict::Bad, State::Closed { failures, since }) if failures + 1 < self.config.failures => {
                self.state = State::Closed { failures: failures + 1, since };
                None
            }
            (Verdict::Bad | Verdict::Unreachable, State::Closed { since, .. }) => {
                if now.saturating_duration_since(since) >= self.config.maximum {
                    self.ejections = 0;
                }
                Some(self.eject(jitter))
            }
            (Verdict::Bad | Verdict::Unreachable, State::HalfOpen { .. }) => Some(self.eject(jitter)),
        }
    }

    /// Names the present ejection, for what follows it.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The time of the ejection is over, and the server could be connected to: one call may find out. False: the ejection
    /// was over already.
    pub(crate) fn half_open(&mut self, ejection: u64) -> bool {
        let is_due = self.state == State::Open && self.epoch == ejection;
        if is_due {
            self.change(State::HalfOpen { is_probed: false });
        }
        is_due
    }

    /// The time of the ejection is over, and the server could not be connected to. `None`: the ejection was over already.
    pub(crate) fn stay_open(&mut self, ejection: u64, jitter: f64) -> Option<Duration> {
        (self.state == State::Open && self.epoch == ejection).then(|| self.eject(jitter))
    }

    fn eject(&mut self, jitter: f64) -> Duration {
        self.change(State::Open);
        let factor = 2u32.saturating_pow(self.ejections);
        self.ejections = self.ejections.saturating_add(1);
        let time = self.config.time.saturating_mul(factor).min(self.config.maximum);
        time.mul_f64(1.0 + jitter / 4.0)
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BreakerConfig =
        BreakerConfig { failures: 3, time: Duration::from_secs(1), maximum: Duration::from_secs(4) };

    fn told(breaker: &mut Breaker, verdict: Verdict, now: Instant) -> Option<u64> {
        let call = breaker.admit();
        breaker.result(call, verdict, now, 0.0).map(|time| time.as_secs())
    }

    fn half_open(breaker: &mut Breaker) {
        assert!(!breaker.half_open(breaker.epoch() - 1), "the end of an earlier ejection");
        assert!(breaker.half_open(breaker.epoch()));
    }

    #[test]
    fn only_failures_in_a_row_eject() {
        let now = Instant::now();
        let mut breaker = Breaker::new(CONFIG, now);
        for verdict in [Verdict::Bad, Verdict::Bad, Verdict::Good, Verdict::Bad, Verdict::Unknown, Verdict::Bad] {
            assert_eq!(told(&mut breaker, verdict, now), None);
        }
        assert!(breaker.is_available());
        assert_eq!(told(&mut breaker, Verdict::Bad, now), Some(1));
        assert!(!breaker.is_available());
        let mut breaker = Breaker::new(CONFIG, now);
        assert_eq!(told(&mut breaker, Verdict::Unreachable, now), Some(1));
    }

    #[test]
    fn the_time_grows_up_to_its_bound_and_starts_anew_after_a_good_while() {
        let now = Instant::now();
        let mut breaker = Breaker::new(CONFIG, now);
        let mut times = vec![told(&mut breaker, Verdict::Unreachable, now).unwrap()];
        for _ in 0..3 {
            half_open(&mut breaker);
            times.push(told(&mut breaker, Verdict::Bad, now).unwrap());
        }
        assert_eq!(times, [1, 2, 4, 4]);
        assert_eq!(breaker.stay_open(breaker.epoch(), 1.0), Some(Duration::from_secs(5)), "jitter lengthens it");
        half_open(&mut breaker);
        assert_eq!(told(&mut breaker, Verdict::Good, now), None);
        assert_eq!(told(&mut breaker, Verdict::Unreachable, now), Some(4), "it has not been good for long");
        half_open(&mut breaker);
        assert_eq!(told(&mut breaker, Verdict::Good, now), None);
        assert_eq!(told(&mut breaker, Verdict::Unreachable, now + CONFIG.maximum), Some(1));
    }

    #[test]
    fn one_call_at_a_time_finds_out() {
        let now = Instant::now();
        let mut breaker = Breaker::new(CONFIG, now);
        told(&mut breaker, Verdict::Unreachable, now);
        half_open(&mut breaker);
        assert!(breaker.is_available());
        let probe = breaker.admit();
        assert!(!breaker.is_available());
        assert_eq!(breaker.result(probe, Verdict::Unknown, now, 0.0), None);
        assert!(breaker.is_available(), "a probe that came to nothing is followed by another");
        assert_eq!(told(&mut breaker, Verdict::Good, now), None);
        assert!(breaker.is_available());
    }

    #[test]
    fn results_from_before_a_change_say_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::new(CONFIG, now);
        let early = breaker.admit();
        told(&mut breaker, Verdict::Unreachable, now);
        assert_eq!(breaker.result(early, Verdict::Good, now, 0.0), None);
        assert!(!breaker.is_available());
        let desperate = breaker.admit();
        assert_eq!(breaker.result(desperate, Verdict::Good, now, 0.0), None);
        assert!(breaker.is_available(), "a call to a server that is left out, for want of others, brought it back");
        assert_eq!(breaker.stay_open(breaker.epoch(), 0.0), None);
    }
}
