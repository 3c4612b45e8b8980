//! PreviewReplay: what a replay would do, from a look at what it would read.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use runmesh_events::{Catalog, Event, EventType, to_duration, to_timestamp};
use runmesh_proto::replay::{HourCount, ReplayGroup, ReplayPreview, ReplaySample, ReplaySpec, TypeCount};
use tokio::time::Instant;

use crate::{
    document::Range,
    error::ReplayError,
    plan::Plan,
    service::Inner,
    source::{Item, SourceError},
    target::TargetSpec,
    view::number,
};

/// How many events are looked at, and for how long.
const MOST: (u64, Duration) = (1_000_000, Duration::from_secs(5));

/// How many hours are told apart.
const HOURS: usize = 10_000;

/// How many samples are shown.
const SAMPLES: usize = 10;

/// An hour.
const HOUR: u64 = 3_600;

/// Some of the events, spread over all that come, however many those are.
struct Samples {
    kept: Vec<ReplaySample>,
    /// One of so many is kept.
    every: u64,
    seen: u64,
}

impl Samples {
    fn new() -> Self {
        Self { kept: Vec::new(), every: 1, seen: 0 }
    }

    fn add(&mut self, sample: impl FnOnce() -> ReplaySample) {
        if self.seen.is_multiple_of(self.every) {
            self.kept.push(sample());
        }
        self.seen += 1;
        if self.kept.len() > SAMPLES {
            let mut keep = [true, false].into_iter().cycle();
            self.kept.retain(|_| keep.next().unwrap_or_default());
            self.every *= 2;
        }
    }
}

/// What was seen of the events.
struct Seen {
    count: u64,
    to_send: u64,
    unreadable: u64,
    types: BTreeMap<EventType, u64>,
    /// By hours since 1970.
    hours: BTreeMap<u64, u64>,
    samples: Samples,
    first: Option<SystemTime>,
    last: Option<SystemTime>,
    /// The time of the last one that would be sent.
    last_to_send: Option<SystemTime>,
}

impl Seen {
    fn new() -> Self {
        Self {
            count: 0,
            to_send: 0,
            unreadable: 0,
            types: BTreeMap::new(),
            hours: BTreeMap::new(),
            samples: Samples::new(),
            first: None,
            last: None,
            last_to_send: None,
        }
    }

    fn add(&mut self, item: &Item, to_send: impl FnOnce(EventType) -> bool, most: Option<u64>) {
        let Ok(event) = &item.event else {
            self.unreadable += 1;
            return;
        };
        let Some(event_type) = event.payload.as_ref().map(|payload| payload.event_type()) else { return };
        self.count += 1;
        *self.types.entry(event_type).or_default() += 1;
        let time = item.time();
        if let Some(time) = time {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            *self.hours.entry(since.as_secs() / HOUR).or_default() += 1;
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = self.last.max(Some(time));
        }
        self.samples.add(|| sample(event, event_type));
        if to_send(event_type) && most.is_none_or(|most| self.to_send < most) {
            self.to_send += 1;
            self.last_to_send = self.last_to_send.max(time);
        }
    }
}

fn sample(event: &Event, event_type: EventType) -> ReplaySample {
    ReplaySample {
        event_id: event.event_id.clone(),
        topic: topic(event_type),
        aggregate_id: event.aggregate_id.clone(),
        occurred_at: event.occurred_at,
    }
}

fn topic(event_type: EventType) -> String {
    Catalog::get().name(event_type).to_owned()
}

/// What a replay of this spec would do.
pub(crate) async fn preview(inner: &Inner, spec: Option<ReplaySpec>) -> Result<ReplayPreview, ReplayError> {
    let plan = Plan::parse(spec.as_ref(), &inner.settings.topics).map_err(ReplayError::Invalid)?;
    let end = inner.check(&plan, None).await?;
    let only = match &plan.target {
        TargetSpec::Group(name) => inner.targets.group(name).await?,
        _ => None,
    };
    let model = plan.target.read_model().and_then(|name| inner.targets.read_model(name));
    let reruns = plan.target.reruns().is_some();
    let to_send = |event_type| {
        only.as_ref().is_none_or(|group| group.topics.contains(&event_type))
            && model.is_none_or(|model| model.event_types().contains(&event_type))
            && (!reruns || event_type == EventType::ExecutionRequested)
    };
    let range = Range { first: None, end };
    // What is just being recorded is not waited for.
    let mut source = inner.sources.open(&plan, 0, range, SystemTime::UNIX_EPOCH).await.map_err(failed)?;
    let (mut seen, mut scanned, mut complete) = (Seen::new(), 0, false);
    let deadline = Instant::now() + MOST.1;
    while scanned < MOST.0 && seen.hours.len() < HOURS && Instant::now() < deadline {
        let Some(page) = source.next().await.map_err(failed)? else {
            complete = true;
            break;
        };
        scanned += page.scanned;
        for item in &page.items {
            seen.add(item, to_send, plan.max_events);
        }
    }
    let mut types: Vec<TypeCount> =
        seen.types.iter().map(|(found, count)| TypeCount { topic: topic(*found), count: number(*count) }).collect();
    types.sort_by(|a, b| (b.count, &a.topic).cmp(&(a.count, &b.topic)));
    let hours = seen.hours.iter().map(|(hour, count)| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(hour.saturating_mul(HOUR));
        HourCount { hour: Some(to_timestamp(at)), count: number(*count) }
    });
    let (groups, refusing_groups) = groups(inner, &plan, &seen).await?;
    Ok(ReplayPreview {
        count: number(seen.count),
        to_send: number(seen.to_send),
        types,
        hours: hours.collect(),
        groups,
        refusing_groups,
        duration: duration(&plan, &seen).map(to_duration),
        first_at: seen.first.map(to_timestamp),
        last_at: seen.last.map(to_timestamp),
        complete,
        scanned: number(scanned),
        unreadable: number(seen.unreadable),
        samples: seen.samples.kept,
    })
}

fn failed(error: SourceError) -> ReplayError {
    match error {
        SourceError::Store(error) => error.into(),
        SourceError::File(name, error) => {
            ReplayError::field("spec.source_file", format!("{name} can't be read: {error}"))
        }
    }
}

/// The groups that would see the events, and those that would not though they read their topics.
async fn groups(inner: &Inner, plan: &Plan, seen: &Seen) -> Result<(Vec<ReplayGroup>, Vec<String>), ReplayError> {
    let (mut seeing, mut refusing) = (Vec::new(), Vec::new());
    for group in inner.targets.groups.groups().await? {
        let name = group.name.as_str();
        let reached = |event_type: &EventType| match &plan.target {
            // What goes to another topic is read by no group of the mesh.
            TargetSpec::Topics(map) => !map.contains_key(event_type),
            TargetSpec::Group(only) => only == name,
            TargetSpec::File | TargetSpec::Rerun(_) | TargetSpec::Shadow(..) | TargetSpec::Projection(_) => false,
        };
        let read = seen.types.iter().filter(|(found, _)| group.topics.contains(found) && reached(found));
        let count: u64 = read.map(|(_, count)| count).sum();
        match (count, group.sees_replays) {
            (0, _) => {}
            (_, false) => refusing.push(name.to_owned()),
            (_, true) => seeing.push(ReplayGroup {
                group: name.to_owned(),
                count: number(count),
                outside_effects: group.outside_effects,
            }),
        }
    }
    Ok((seeing, refusing))
}

/// How long it takes at least. `None`: neither a speed nor a rate was asked for.
fn duration(plan: &Plan, seen: &Seen) -> Option<Duration> {
    let gaps = (plan.speed > 0.0).then(|| {
        let (Some(first), Some(last)) = (seen.first, seen.last_to_send) else { return Duration::ZERO };
        let length = last.duration_since(first).unwrap_or_default();
        Duration::try_from_secs_f64(length.as_secs_f64() / plan.speed).unwrap_or(Duration::MAX)
    });
    let sending = (plan.rate > 0.0)
        .then(|| Duration::try_from_secs_f64(seen.to_send as f64 / plan.rate).unwrap_or(Duration::MAX));
    gaps.max(sending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_over_all() {
        for count in [0_u64, 1, 10, 11, 1_000, 12_345] {
            let mut samples = Samples::new();
            for number in 0..count {
                samples.add(|| ReplaySample { event_id: number.to_string(), ..Default::default() });
            }
            let kept: Vec<u64> = samples.kept.iter().map(|sample| sample.event_id.parse().unwrap()).collect();
            assert!(kept.len() <= SAMPLES && kept.len() as u64 >= count.min(5), "{kept:?}");
            assert!(kept.last().is_none_or(|last| *last + 2 * samples.every >= count), "{kept:?} of {count}");
        }
    }
}
