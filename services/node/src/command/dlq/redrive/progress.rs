//! How a redrive goes.

use std::io::{IsTerminal as _, Write as _};

use runmesh_proto::dlq::{Redrive, RedriveState};

use crate::command::{dlq::words, print};

/// Shows progress on standard error: on a terminal on one line that changes, elsewhere a line when its state does.
pub(super) struct Progress {
    shown: bool,
    on_a_terminal: bool,
    state: Option<(RedriveState, String)>,
}

impl Progress {
    pub(super) fn new(as_json: bool) -> Self {
        Self { shown: !as_json, on_a_terminal: std::io::stderr().is_terminal(), state: None }
    }

    pub(super) fn show(&mut self, redrive: &Redrive) {
        if !self.shown {
            return;
        }
        let state = Some((redrive.state(), redrive.note.clone()));
        let changed = std::mem::replace(&mut self.state, state.clone()) != state;
        // Progress is not worth an error.
        let _ = match self.on_a_terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{}", line(redrive)),
            false if changed => writeln!(std::io::stderr(), "{}", line(redrive)),
            false => Ok(()),
        };
    }

    /// Makes room for what comes after.
    pub(super) fn clear(&self) {
        if self.shown && self.on_a_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The state in a word.
pub(super) fn state(state: RedriveState) -> String {
    words::name(state.as_str_name(), "REDRIVE_STATE_")
}

/// Whether it goes on only when somebody resumes it.
pub(super) fn has_stopped(redrive: &Redrive) -> bool {
    redrive.state() == RedriveState::Stopped
}

/// Whether all letters were handled, or need not be any more.
pub(super) fn all_is_well(redrive: &Redrive) -> bool {
    redrive.state() == RedriveState::Completed && redrive.failed == 0
}

/// A redrive on one line.
pub(super) fn line(redrive: &Redrive) -> String {
    let done = redrive.delivered + redrive.skipped;
    let part = if redrive.planned > 0 { done.saturating_mul(100) / redrive.planned } else { 100 };
    let mut line = format!(
        "{}: {} of {} ({part} %), {} delivered, {} handled, {} failed",
        state(redrive.state()),
        done,
        redrive.planned,
        redrive.delivered,
        redrive.resolved,
        redrive.failed
    );
    if redrive.skipped > 0 {
        line.push_str(&format!(", {} skipped", redrive.skipped));
    }
    if redrive.current_rate > 0.0 {
        line.push_str(&format!(", {:.1}/s", redrive.current_rate));
    }
    if redrive.throttled {
        line.push_str(&format!(", waits for live traffic ({} records behind)", redrive.live_lag));
    }
    if !redrive.note.is_empty() {
        line.push_str(&format!(": {}", print::plain(&redrive.note)));
    }
    line
}

/// What came of it.
pub(super) fn verdict(redrive: &Redrive) -> String {
    let mut words = line(redrive);
    let id = &redrive.redrive_id;
    if has_stopped(redrive) {
        words.push_str(&format!("\n`runmesh dlq redrive resume {id}` goes on all the same, `cancel` ends it"));
    } else if redrive.failed > 0 {
        words.push_str("\n`runmesh dlq groups` shows why they failed again");
    }
    words
}

/// All there is to say, a fact in a line.
pub(super) fn facts(redrive: &Redrive) -> Vec<String> {
    let rate = if redrive.rate > 0.0 { format!("{}/s at most", redrive.rate) } else { "no limit".to_owned() };
    let canary = match redrive.canary {
        0 => String::new(),
        canary => format!("{canary}, of which {} may fail", redrive.canary_failures),
    };
    let moment = |time: &Option<prost_types::Timestamp>| match time {
        Some(_) => words::time(time.as_ref()),
        None => String::new(),
    };
    let facts = [
        ("redrive", redrive.redrive_id.clone()),
        ("state", line(redrive)),
        ("rate", rate),
        ("canary", canary),
        ("started", moment(&redrive.started_at)),
        ("updated", moment(&redrive.updated_at)),
        ("ended", moment(&redrive.ended_at)),
        ("by", redrive.actor.clone()),
        ("reason", redrive.reason.clone()),
    ];
    let shown = facts.into_iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(name, value)| format!("{name:<7}  {}", print::plain(&value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redrive(state: RedriveState) -> Redrive {
        Redrive {
            redrive_id: "r1".to_owned(),
            state: state.into(),
            planned: 200,
            delivered: 90,
            skipped: 10,
            resolved: 80,
            ..Redrive::default()
        }
    }

    #[test]
    fn a_line_says_how_far_it_is_and_what_holds_it_up() {
        let plain = line(&Redrive { skipped: 0, ..redrive(RedriveState::Running) });
        assert_eq!(plain, "running: 90 of 200 (45 %), 90 delivered, 80 handled, 0 failed");
        let busy = Redrive {
            throttled: true,
            live_lag: 300,
            current_rate: 12.34,
            note: "by\x1bhand".to_owned(),
            ..redrive(RedriveState::Paused)
        };
        assert_eq!(
            line(&busy),
            "paused: 100 of 200 (50 %), 90 delivered, 80 handled, 0 failed, 10 skipped, 12.3/s, waits for live traffic \
             (300 records behind): by\u{fffd}hand"
        );
        assert!(line(&Redrive::default()).contains("(100 %)"));
    }

    #[test]
    fn only_a_redrive_without_failures_that_completed_is_well() {
        assert!(all_is_well(&redrive(RedriveState::Completed)));
        assert!(!all_is_well(&Redrive { failed: 1, ..redrive(RedriveState::Completed) }));
        for state in [RedriveState::Stopped, RedriveState::Cancelled, RedriveState::Running] {
            assert!(!all_is_well(&redrive(state)), "{state:?}");
        }
        assert!(verdict(&redrive(RedriveState::Stopped)).contains("resume r1"));
    }

    #[test]
    fn the_facts_leave_out_what_there_is_not() {
        let text = facts(&Redrive { canary: 5, ..redrive(RedriveState::Canary) }).join("\n");
        assert!(text.contains("canary   5, of which 0 may fail\n") || text.ends_with("may fail"), "{text}");
        assert!(text.contains("rate     no limit\n") && !text.contains("ended"), "{text}");
    }
}
