//! Whether executions come to an end, and to one only.

use std::time::{Duration, SystemTime};

use runmesh_events::{
    AggregateId, Event, EventType, ExecutionId, Payload, from_duration, from_timestamp, lifecycle::TERMINAL,
};
use runmesh_proto::event_log::{Finding, FindingKind};
use runmesh_store::{Filter, Position};

use crate::{
    VerifyError,
    logs::READ,
    report::{Report, finding, topic_name},
    verifier::Task,
};

/// The events that say how far an execution has come.
const STAGES: [EventType; 4] = [
    EventType::ExecutionRequested,
    EventType::ExecutionQueued,
    EventType::ExecutionAccepted,
    EventType::ExecutionStarted,
];

/// How far an execution has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Asked for, or given a slot: the mesh has to go on with it at once.
    Asked,
    /// In the queue, for as long as it takes.
    Queued,
    /// Its script runs, within its limit.
    Running,
}

/// What is known of an execution. There may be millions, so times are whole seconds.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    stage: Stage,
    /// When it came to this stage.
    since: Seconds,
    /// Its wall-clock limit.
    limit: Seconds,
    ends: u8,
}

/// A time since 1970, or a duration, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seconds(u32);

impl From<Duration> for Seconds {
    fn from(duration: Duration) -> Self {
        Self(u32::try_from(duration.as_secs()).unwrap_or(u32::MAX))
    }
}

impl From<SystemTime> for Seconds {
    fn from(time: SystemTime) -> Self {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().into()
    }
}

impl Seconds {
    /// The time, to the second.
    pub(crate) fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.duration()
    }

    fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl Execution {
    /// The execution that an event asks for. `None`: the event is another one.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        let Some(Payload::ExecutionRequested(request)) = &event.payload else { return None };
        event.aggregate_id.parse::<ExecutionId>().ok()?;
        let limit = request.timeout.as_ref().and_then(from_duration).unwrap_or_default();
        Some(Self { stage: Stage::Asked, since: time_of(event).into(), limit: limit.into(), ends: 0 })
    }

    /// Takes in a later event of the log.
    pub(crate) fn apply(&mut self, event: &Event) {
        let stage = match &event.payload {
            Some(Payload::ExecutionQueued(_)) => Stage::Queued,
            Some(Payload::ExecutionAccepted(_)) => Stage::Asked,
            Some(Payload::ExecutionStarted(_)) => Stage::Running,
            Some(payload) if TERMINAL.contains(&payload.event_type()) => {
                self.ends = self.ends.saturating_add(1);
                return;
            }
            _ => return,
        };
        (self.stage, self.since) = (stage, time_of(event).into());
    }

    /// Whether it should have gone on, or ended, by now.
    fn is_overdue(&self, task: &Task<'_>) -> bool {
        let age = task.age(self.since.time());
        match self.stage {
            Stage::Asked | Stage::Queued => age > task.patience,
            Stage::Running => age > self.limit.duration().saturating_add(task.patience),
        }
    }

    /// Reports what is wrong with its end. Whether it has ended; `None`: more than once, or it is gone.
    pub(crate) async fn check(
        &self,
        task: &Task<'_>,
        id: &str,
        report: &mut Report,
    ) -> Result<Option<bool>, VerifyError> {
        match self.ends {
            1 => return Ok(Some(true)),
            0 if !self.is_overdue(task) => return Ok(Some(false)),
            _ => {}
        }
        // It may have gone on since: only the log as it is now decides.
        let Some((now, ends)) = reread(task, id).await? else { return Ok(None) };
        let seconds = task.age(now.since.time()).as_secs();
        let (kind, words) = match (ends.as_slice(), now.stage) {
            ([_], _) => return Ok(Some(true)),
            ([], _) if !now.is_overdue(task) => return Ok(Some(false)),
            ([], Stage::Queued) => (FindingKind::Waiting, format!("the execution waits for a slot since {seconds} s")),
            ([], Stage::Asked) => {
                (FindingKind::NoEnd, format!("the execution has no terminal event; nothing happened for {seconds} s"))
            }
            ([], Stage::Running) => {
                let limit = now.limit.0;
                let words =
                    format!("the execution has no terminal event {seconds} s after its start, its limit is {limit} s");
                (FindingKind::NoEnd, words)
            }
            (ends, _) => {
                let names: Vec<String> = ends.iter().map(|end| topic_name(*end)).collect();
                let words = format!("the execution has {} terminal events: {}", ends.len(), names.join(", "));
                (FindingKind::SeveralEnds, words)
            }
        };
        report.found(Finding { aggregate_id: id.to_owned(), ..finding(kind, words) }).await;
        Ok(Some(false).filter(|_| ends.is_empty()))
    }
}

/// The execution as its log has it now, and its terminal events. `None`: there is no log.
async fn reread(task: &Task<'_>, id: &str) -> Result<Option<(Execution, Vec<EventType>)>, VerifyError> {
    let types = STAGES.into_iter().chain(TERMINAL).collect();
    let filter = Filter { aggregate: Some(AggregateId::from(id)), types, ..Filter::default() };
    let found = task.store.scan(&filter, Position(0), READ).await?;
    let Some(mut execution) = found.first().and_then(|first| Execution::of(&first.event)) else { return Ok(None) };
    let mut ends = Vec::new();
    for stored in found.iter().skip(1) {
        execution.apply(&stored.event);
        let event_type = stored.event.payload.as_ref().map(|payload| payload.event_type());
        ends.extend(event_type.filter(|event_type| TERMINAL.contains(event_type)));
    }
    Ok(Some((execution, ends)))
}

/// When an event was recorded.
pub(crate) fn time_of(event: &Event) -> SystemTime {
    event.occurred_at.as_ref().and_then(from_timestamp).unwrap_or(SystemTime::UNIX_EPOCH)
}
