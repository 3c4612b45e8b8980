//! GetEventStats: counts of events, read one by one.

mod names;
mod outcomes;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::TryStreamExt as _;
use runmesh_events::{Event, EventType, from_timestamp, to_timestamp};
use runmesh_proto::event_log::{EventHourCount, EventStats, EventTypeCount, GetEventStatsRequest};
use runmesh_rpc::Violation;
use runmesh_store::Position;

use self::{names::Names, outcomes::Outcomes};
use crate::{
    error::{EventLogError, selection},
    reading,
    service::Inner,
    view::topic_of,
};

/// How many users are listed.
const USERS: usize = 20;

/// The greatest number of users that can be asked for.
const MAX_USERS: i32 = 1_000;

/// How many hours are told one by one: 100 days.
const HOURS: usize = 2_400;

const HOUR: u64 = 60 * 60;

pub(crate) async fn stats(inner: &Inner, request: GetEventStatsRequest) -> Result<EventStats, EventLogError> {
    let mut violations = Vec::new();
    let users = match request.top_users {
        0 => USERS,
        asked @ 1..=MAX_USERS => usize::try_from(asked).unwrap_or(USERS),
        asked => {
            let words = format!("is {asked}; it has to be from 0 to {MAX_USERS}");
            violations.push(Violation::new("top_users", words));
            USERS
        }
    };
    let selection = selection(&request.filter.unwrap_or_default(), &mut violations);
    if !violations.is_empty() {
        return Err(EventLogError::Invalid(violations));
    }
    let upto = reading::newest(&*inner.store).await?;
    let mut stats = Stats::default();
    {
        let events = reading::all(Arc::clone(&inner.store), Arc::new(selection), Position(0), upto);
        let mut events = std::pin::pin!(events);
        while let Some(read) = events.try_next().await? {
            for stored in &read {
                stats.take(&stored.event);
            }
            stats.outcomes.look_up(&*inner.store).await?;
        }
    }
    Ok(stats.finish(users))
}

/// What is counted so far. Its size is bounded, whatever the events are.
#[derive(Default)]
struct Stats {
    events: i64,
    first: Option<SystemTime>,
    last: Option<SystemTime>,
    types: HashMap<EventType, i64>,
    /// By the number of the hour since 1970.
    hours: BTreeMap<u64, Hour>,
    before_hours: i64,
    producers: Names,
    users: Names,
    outcomes: Outcomes,
}

#[derive(Default)]
struct Hour {
    count: i64,
    ended: i64,
    failed: i64,
}

impl Stats {
    fn take(&mut self, event: &Event) {
        self.events += 1;
        let event_type = event.payload.as_ref().map_or(EventType::Unspecified, |payload| payload.event_type());
        *self.types.entry(event_type).or_default() += 1;
        self.producers.add(&event.producer);
        self.users.add(&event.user_id);
        let at = event.occurred_at.as_ref().and_then(from_timestamp).unwrap_or(SystemTime::UNIX_EPOCH);
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = self.last.max(Some(at));
        let ended = self.outcomes.take(event, event_type, at);
        self.count_in_hour(at, ended);
    }

    /// `ended`: an execution has ended, and whether it has failed.
    fn count_in_hour(&mut self, at: SystemTime, ended: Option<bool>) {
        let number = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / HOUR;
        let oldest = self.hours.first_key_value().map(|(oldest, _)| *oldest);
        if self.hours.len() >= HOURS && !self.hours.contains_key(&number) {
            if oldest.is_some_and(|oldest| number < oldest) {
                self.before_hours += 1;
                return;
            }
            let dropped = self.hours.pop_first();
            self.before_hours += dropped.map_or(0, |(_, hour)| hour.count);
        }
        let hour = self.hours.entry(number).or_default();
        hour.count += 1;
        if let Some(failed) = ended {
            hour.ended += 1;
            hour.failed += i64::from(failed);
        }
    }

    fn finish(self, users: usize) -> EventStats {
        let mut types: Vec<EventTypeCount> = self
            .types
            .into_iter()
            .map(|(event_type, count)| EventTypeCount {
                event_type: event_type.into(),
                topic: topic_of(event_type).to_owned(),
                count,
            })
            .collect();
        types.sort_by(|one, two| two.count.cmp(&one.count).then_with(|| one.topic.cmp(&two.topic)));
        let hour = |(number, hour): (u64, Hour)| EventHourCount {
            hour: Some(to_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(number * HOUR))),
            count: hour.count,
            ended: hour.ended,
            failed: hour.failed,
        };
        EventStats {
            events: self.events,
            first_recorded_at: self.first.map(to_timestamp),
            last_recorded_at: self.last.map(to_timestamp),
            types,
            hours: self.hours.into_iter().map(hour).collect(),
            events_before_hours: self.before_hours,
            names_are_estimates: self.producers.are_estimates() || self.users.are_estimates(),
            producers: self.producers.most(usize::MAX),
            users: self.users.most(users),
            executions: Some(self.outcomes.finish()),
        }
    }
}
