//! Replays as clients see them.

use std::time::Duration;

use runmesh_events::{to_duration, to_timestamp};
use runmesh_proto::replay;
use runmesh_store::StoreError;

use crate::{
    document::{Failure, Operation, Progress, Range, ReplayDocument},
    session::Phase,
};

/// From what part on it is told how long the rest takes.
const TELLING: f64 = 0.001;

pub(crate) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How far a place is in its range, 0 to 1.
fn fraction(range: Range, place: u64, phase: Phase) -> f64 {
    if phase == Phase::Completed {
        return 1.0;
    }
    let Some(first) = range.first else { return 0.0 };
    let (done, all) = (place.saturating_sub(first), range.end.saturating_sub(first));
    if all == 0 { 0.0 } else { (done as f64 / all as f64).min(1.0) }
}

/// How long the rest takes if it goes on as so far.
fn remaining(fraction: f64, ran: Duration) -> Option<Duration> {
    let seconds = (fraction >= TELLING).then(|| ran.as_secs_f64() * (1.0 - fraction) / fraction)?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn progress(document: &ReplayDocument) -> replay::ReplayProgress {
    let Progress { place, scanned, matched, sent, skipped, failed, retries, event_time, .. } = document.progress;
    replay::ReplayProgress {
        scanned: number(scanned),
        matched: number(matched),
        sent: number(sent),
        skipped: number(skipped),
        failed: number(failed),
        retries: number(retries),
        fraction: fraction(document.range, place, document.phase),
        event_time: event_time.map(to_timestamp),
        checkpoint: number(place),
        takeovers: i32::try_from(document.taken.saturating_sub(1)).unwrap_or(i32::MAX),
    }
}

fn operation(operation: &Operation) -> replay::ReplayOperation {
    replay::ReplayOperation {
        operation: operation.method.clone(),
        actor: operation.actor.clone(),
        reason: operation.reason.clone(),
        at: Some(to_timestamp(operation.at)),
    }
}

fn failure(failure: &Failure) -> replay::ReplayError {
    replay::ReplayError {
        event_id: failure.event_id.clone(),
        place: number(failure.place),
        error: failure.error.clone(),
        tries: i32::try_from(failure.tries).unwrap_or(i32::MAX),
        at: Some(to_timestamp(failure.at)),
    }
}

/// The replay.
///
/// # Errors
/// When its request can't be read.
pub(crate) fn replay(document: &ReplayDocument) -> Result<replay::Replay, StoreError> {
    let request = document.request()?;
    let progress = progress(document);
    let runs = document.phase == Phase::Running;
    let remaining = remaining(progress.fraction, document.progress.ran).filter(|_| runs);
    let writes_file = request.spec.as_ref().is_some_and(|spec| {
        let dry_run = spec.options.is_some_and(|options| options.dry_run);
        matches!(spec.target, Some(replay::replay_spec::Target::File(_))) && !dry_run
    });
    Ok(replay::Replay {
        replay_id: document.id.clone(),
        state: document.phase.view() as i32,
        spec: request.spec,
        progress: Some(progress),
        current_rate: if runs { document.current_rate } else { 0.0 },
        remaining: remaining.map(to_duration),
        throttled: runs && document.throttled,
        live_lag: if runs { number(document.live_lag) } else { 0 },
        created_at: Some(to_timestamp(document.created_at)),
        started_at: document.started_at.map(to_timestamp),
        updated_at: Some(to_timestamp(document.updated_at)),
        ended_at: document.ended_at.map(to_timestamp),
        actor: request.actor,
        reason: request.reason,
        note: document.note.clone(),
        operations: document.operations.iter().map(operation).collect(),
        errors: document.failures.iter().map(failure).collect(),
        file_name: if writes_file { ReplayDocument::file_name(&document.id) } else { String::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_follows_from_its_place() {
        let range = Range { first: Some(100), end: 300 };
        assert!((fraction(range, 150, Phase::Running) - 0.25).abs() < 1e-9);
        assert!((fraction(range, 0, Phase::Running)).abs() < 1e-9);
        assert!((fraction(Range { first: None, end: 300 }, 150, Phase::Running)).abs() < 1e-9);
        assert!((fraction(range, 150, Phase::Completed) - 1.0).abs() < 1e-9);
        assert_eq!(remaining(0.25, Duration::from_secs(10)), Some(Duration::from_secs(30)));
        assert_eq!(remaining(0.0, Duration::from_secs(10)), None);
    }
}
