//! What became of executions, and how long they took.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use runmesh_events::{
    AggregateId, Event, EventType, Payload, from_duration, from_timestamp, lifecycle::TERMINAL, to_duration,
};
use runmesh_proto::{event::ResourceUsage, event_log::ExecutionOutcomes};
use runmesh_store::{EventStore, StoreError};

use crate::logs::key_of;

/// How many executions that have not ended yet are kept in mind.
const OPEN: usize = 100_000;

/// Of how many executions that began before what is looked at the beginning is looked up.
const LOOKED_UP: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Outcomes {
    counted: ExecutionOutcomes,
    /// When executions were asked for that have not ended.
    open: HashMap<[u8; 16], SystemTime>,
    /// Ended executions whose beginning was not seen: their logs, and when they ended.
    unknown: Vec<(String, SystemTime)>,
    looked_up: usize,
    durations: Duration,
    wall_times: Duration,
}

impl Outcomes {
    /// Takes in an event. Returns, where it ends an execution, whether that has failed.
    pub(super) fn take(&mut self, event: &Event, event_type: EventType, at: SystemTime) -> Option<bool> {
        if event_type == EventType::ExecutionRequested {
            self.counted.requested += 1;
            if self.open.len() < OPEN {
                self.open.insert(key_of(&event.aggregate_id), at);
            }
            return None;
        }
        if !TERMINAL.contains(&event_type) {
            return None;
        }
        let counted = &mut self.counted;
        let (count, usage) = match event.payload.as_ref()? {
            Payload::ExecutionCompleted(end) => (&mut counted.completed, end.resource_usage.as_ref()),
            Payload::ExecutionFailed(end) => (&mut counted.failed, end.resource_usage.as_ref()),
            Payload::ExecutionTimeout(end) => (&mut counted.timed_out, end.resource_usage.as_ref()),
            _ => (&mut counted.cancelled, None),
        };
        *count += 1;
        self.measure(usage);
        match self.open.remove(&key_of(&event.aggregate_id)) {
            Some(requested) => self.time(requested, at),
            None if self.looked_up + self.unknown.len() < LOOKED_UP => {
                self.unknown.push((event.aggregate_id.clone(), at));
            }
            None => {}
        }
        Some(matches!(event_type, EventType::ExecutionFailed | EventType::ExecutionTimeout))
    }

    /// Looks up when executions began that have ended, and whose beginning was not among what was looked at.
    pub(super) async fn look_up(&mut self, store: &dyn EventStore) -> Result<(), StoreError> {
        for (log, ended) in std::mem::take(&mut self.unknown) {
            self.looked_up += 1;
            if let Some(requested) = requested_at(store, &log).await? {
                self.time(requested, ended);
            }
        }
        Ok(())
    }

    fn measure(&mut self, usage: Option<&ResourceUsage>) {
        let wall_time = usage.and_then(|usage| usage.wall_time.as_ref()).and_then(from_duration);
        if let Some(wall_time) = wall_time {
            self.counted.measured += 1;
            self.wall_times = self.wall_times.saturating_add(wall_time);
        }
    }

    fn time(&mut self, requested: SystemTime, ended: SystemTime) {
        self.counted.timed += 1;
        self.durations = self.durations.saturating_add(ended.duration_since(requested).unwrap_or_default());
    }

    pub(super) fn finish(self) -> ExecutionOutcomes {
        let counted = self.counted;
        let failed = counted.failed + counted.timed_out;
        let ended = failed + counted.completed + counted.cancelled;
        // Far fewer than a double holds exactly.
        let failure_rate = if ended == 0 { 0.0 } else { failed as f64 / ended as f64 };
        let mean = |sum: Duration, count: i64| {
            let nanos = sum.as_nanos().checked_div(u128::try_from(count).ok()?)?;
            Some(to_duration(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
        };
        ExecutionOutcomes {
            failure_rate,
            mean_duration: mean(self.durations, counted.timed),
            mean_wall_time: mean(self.wall_times, counted.measured),
            ..counted
        }
    }
}

/// When the execution with this log was asked for.
async fn requested_at(store: &dyn EventStore, log: &str) -> Result<Option<SystemTime>, StoreError> {
    let first = store.read(&AggregateId::from(log), 0, 1, &[EventType::ExecutionRequested]).await?;
    Ok(first.first().and_then(|event| event.occurred_at.as_ref()).and_then(from_timestamp))
}
