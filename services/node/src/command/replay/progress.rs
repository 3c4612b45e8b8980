//! How a replay goes.

use std::io::{IsTerminal as _, Write as _};

use runmesh_proto::replay::{Replay, ReplayState};

use super::spec;
use crate::command::{print, words};

/// How many characters the bar has.
const BAR: usize = 24;

/// Shows progress on standard error: on a terminal as a bar that grows, elsewhere a line when its state changes.
pub(super) struct Progress {
    shown: bool,
    on_a_terminal: bool,
    state: Option<(ReplayState, String)>,
}

impl Progress {
    pub(super) fn new(as_json: bool) -> Self {
        Self { shown: !as_json, on_a_terminal: std::io::stderr().is_terminal(), state: None }
    }

    pub(super) fn show(&mut self, replay: &Replay) {
        if !self.shown {
            return;
        }
        let state = Some((replay.state(), replay.note.clone()));
        let changed = std::mem::replace(&mut self.state, state.clone()) != state;
        // Progress is not worth an error.
        let _ = match self.on_a_terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{} {}", bar(fraction(replay)), line(replay)),
            false if changed => writeln!(std::io::stderr(), "{}", line(replay)),
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

fn fraction(replay: &Replay) -> f64 {
    replay.progress.map_or(0.0, |progress| progress.fraction)
}

/// A part of the whole as a bar.
fn bar(fraction: f64) -> String {
    let eighths = (fraction.clamp(0.0, 1.0) * (BAR * 8) as f64) as usize;
    let part = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8];
    let full: String = "█".repeat(eighths / 8);
    let next: String = if eighths < BAR * 8 { part.to_string() } else { String::new() };
    format!("▕{:<BAR$}▏", full + &next)
}

/// A state in words.
pub(super) fn state(state: ReplayState) -> String {
    words::name(state.as_str_name(), "REPLAY_STATE_")
}

/// Whether it came to its end, and nothing failed.
pub(super) fn all_is_well(replay: &Replay) -> bool {
    replay.state() == ReplayState::Completed && replay.progress.is_none_or(|progress| progress.failed == 0)
}

/// How far it is.
pub(super) fn line(replay: &Replay) -> String {
    let progress = replay.progress.unwrap_or_default();
    let mut line = format!("{}: {:.0} %, {} sent", state(replay.state()), fraction(replay) * 100.0, progress.sent);
    for (count, what) in [(progress.skipped, "not for the target"), (progress.failed, "failed")] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    if replay.current_rate > 0.0 {
        line.push_str(&format!(", {:.0}/s", replay.current_rate));
    }
    if replay.remaining.is_some() {
        let seconds = replay.remaining.map(|left| prost_types::Duration { nanos: 0, ..left });
        line.push_str(&format!(", {} left", words::duration(seconds.as_ref())));
    }
    if replay.throttled {
        line.push_str(&format!(", waits for live traffic ({} records behind)", replay.live_lag));
    }
    if !replay.note.is_empty() {
        line.push_str(&format!(": {}", print::plain(&replay.note)));
    }
    line
}

/// What came of it.
pub(super) fn verdict(replay: &Replay) -> String {
    let mut words = line(replay);
    let id = &replay.replay_id;
    match replay.state() {
        ReplayState::Failed => {
            words.push_str(&format!("\n`runmesh replay resume {id}` tries again from there, `cancel` ends it"));
        }
        _ if !all_is_well(replay) => {
            words.push_str(&format!("\n`runmesh replay show {id}` shows what could not be sent"))
        }
        _ if !replay.file_name.is_empty() => {
            words.push_str(&format!("\n{}: `--from-file {id}` replays it", print::plain(&replay.file_name)));
        }
        _ => {}
    }
    words
}

/// All there is to say, a fact in a line.
pub(super) fn facts(replay: &Replay) -> Vec<String> {
    let moment = |time: &Option<prost_types::Timestamp>| match time {
        Some(_) => words::time(time.as_ref()),
        None => String::new(),
    };
    let progress = replay.progress.unwrap_or_default();
    let options = replay.spec.as_ref().and_then(|spec| spec.options).unwrap_or_default();
    let pace = [(options.speed, "times as fast"), (options.rate, "in a second at most")];
    let pace = pace.into_iter().filter(|(number, _)| *number > 0.0).map(|(number, what)| format!("{number} {what}"));
    let facts = [
        ("replay", replay.replay_id.clone()),
        ("state", line(replay)),
        ("to", spec::target(replay.spec.as_ref())),
        ("file", replay.file_name.clone()),
        ("pace", pace.collect::<Vec<_>>().join(", ")),
        ("events", format!("{} looked at, {} of them meant", progress.scanned, progress.matched)),
        ("at", moment(&progress.event_time)),
        ("created", moment(&replay.created_at)),
        ("started", moment(&replay.started_at)),
        ("ended", moment(&replay.ended_at)),
        ("by", replay.actor.clone()),
        ("reason", replay.reason.clone()),
    ];
    let shown = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let mut lines: Vec<String> = shown.map(|(name, value)| format!("{name:<7}  {}", print::plain(&value))).collect();
    lines.extend(replay.operations.iter().skip(1).map(|one| {
        let (at, reason) = (words::time(one.at.as_ref()), print::plain(&one.reason));
        format!("{at}  {} by {}: {reason}", one.operation, print::plain(&one.actor))
    }));
    lines.extend(replay.errors.iter().map(|one| {
        let id =
            if one.event_id.is_empty() { format!("the line before byte {}", one.place) } else { one.event_id.clone() };
        format!("{}: {} ({} tries)", print::plain(&id), print::plain(&one.error), one.tries)
    }));
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runmesh_events::to_duration;
    use runmesh_proto::replay::ReplayProgress;

    use super::*;

    fn replay(state: ReplayState) -> Replay {
        let progress = ReplayProgress { sent: 90, fraction: 0.5, ..Default::default() };
        Replay { replay_id: "r1".to_owned(), state: state.into(), progress: Some(progress), ..Replay::default() }
    }

    #[test]
    fn a_line_says_how_far_it_is_and_what_holds_it_up() {
        assert_eq!(line(&replay(ReplayState::Running)), "running: 50 %, 90 sent");
        let busy = Replay {
            current_rate: 12.34,
            remaining: Some(to_duration(Duration::from_millis(61_500))),
            throttled: true,
            live_lag: 300,
            note: "by\x1bhand".to_owned(),
            ..replay(ReplayState::Running)
        };
        let words =
            "running: 50 %, 90 sent, 12/s, 1m1s left, waits for live traffic (300 records behind): by\u{fffd}hand";
        assert_eq!(line(&busy), words);
    }

    #[test]
    fn a_bar_is_as_long_whatever_is_in_it() {
        assert_eq!(bar(0.0), format!("▕{}▏", " ".repeat(24)));
        assert_eq!(bar(1.0), format!("▕{}▏", "█".repeat(24)));
        assert_eq!(bar(0.5), format!("▕{}{}▏", "█".repeat(12), " ".repeat(12)));
        for percent in 0..=100 {
            assert_eq!(bar(f64::from(percent) / 100.0).chars().count(), 26, "{percent}");
        }
    }

    #[test]
    fn only_a_replay_that_sent_all_is_well() {
        assert!(all_is_well(&replay(ReplayState::Completed)));
        let mut lost = replay(ReplayState::Completed);
        lost.progress = lost.progress.map(|progress| ReplayProgress { failed: 1, ..progress });
        assert!(!all_is_well(&lost) && verdict(&lost).contains("replay show r1"));
        assert!(!all_is_well(&replay(ReplayState::Cancelled)));
        assert!(verdict(&replay(ReplayState::Failed)).contains("resume r1"));
        let written = Replay { file_name: "r1.ndjson".to_owned(), ..replay(ReplayState::Completed) };
        assert!(verdict(&written).contains("--from-file r1"));
    }
}
