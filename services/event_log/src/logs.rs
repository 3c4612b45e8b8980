//! The store by itself: every aggregate is numbered without holes, every execution comes to one end.

use std::collections::{HashMap, hash_map::Entry};

use runmesh_events::{AggregateId, Event, EventType};
use runmesh_proto::event_log::{FindingKind, LogLedger};
use runmesh_store::{Filter, Position};
use uuid::Uuid;

use crate::{
    VerifyError,
    ends::Execution,
    report::{Report, about},
    verifier::Task,
};

/// How many events one read brings. On a store that has no order of its own a small page costs as much as a large one.
pub(crate) const READ: usize = 2_048;

/// The number of events of each type.
#[derive(Debug, Default)]
pub(crate) struct Counts(HashMap<EventType, u64>);

impl Counts {
    /// The number of events of this type.
    pub(crate) fn of(&self, event_type: EventType) -> u64 {
        self.0.get(&event_type).copied().unwrap_or_default()
    }
}

/// What is kept of an aggregate while the store is read.
#[derive(Debug)]
struct Log {
    /// The sequence that comes next. `None`: a hole was reported, there is nothing more to say.
    next: Option<u64>,
    /// What is known of the execution. `None`: it is none, or it began before the time that is looked at.
    execution: Option<Execution>,
}

/// Reads all events once.
pub(crate) async fn check(task: &Task<'_>, report: &mut Report) -> Result<(LogLedger, Counts), VerifyError> {
    let mut pass = Pass { task, logs: HashMap::new(), counts: Counts::default(), events: 0 };
    let filter = Filter { from: task.since, ..Filter::default() };
    let mut after = Position(0);
    loop {
        let page = task.store.scan(&filter, after, READ).await?;
        let Some(last) = page.last() else { break };
        after = last.position;
        for stored in page.iter().filter(|stored| task.is_of_the_time(&stored.event)) {
            pass.take(&stored.event, report).await?;
        }
        report.events(page.len()).await;
    }
    pass.finish(report).await
}

struct Pass<'a> {
    task: &'a Task<'a>,
    logs: HashMap<[u8; 16], Log>,
    counts: Counts,
    events: i64,
}

impl Pass<'_> {
    async fn take(&mut self, event: &Event, report: &mut Report) -> Result<(), VerifyError> {
        self.events += 1;
        if let Some(payload) = &event.payload {
            *self.counts.0.entry(payload.event_type()).or_default() += 1;
        }
        // Sequences begin with 1, unless the events before are left out.
        let is_whole = self.task.since.is_none();
        let log = match self.logs.entry(key_of(&event.aggregate_id)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Log { next: Some(if is_whole { 1 } else { event.sequence }), execution: None })
            }
        };
        let Some(next) = log.next else { return Ok(()) };
        log.next = Some(event.sequence + 1);
        if event.sequence == 1 {
            log.execution = Execution::of(event);
        } else if let Some(execution) = &mut log.execution {
            execution.apply(event);
        }
        // The log may have been deleted and begun anew, and on a shared store a writer may have been slower than the read:
        // a second look at the aggregate by itself decides.
        if event.sequence != next
            && let Some(hole) = first_hole(self.task, &AggregateId::from(event.aggregate_id.as_str())).await?
        {
            log.next = None;
            let words = format!("sequence {hole} of the log is not there, but a later one is");
            report.found(about(event, FindingKind::Hole, words)).await;
        }
        Ok(())
    }

    async fn finish(self, report: &mut Report) -> Result<(LogLedger, Counts), VerifyError> {
        let mut ledger = LogLedger {
            events: self.events,
            aggregates: i64::try_from(self.logs.len()).unwrap_or(i64::MAX),
            ..LogLedger::default()
        };
        for (key, log) in &self.logs {
            let Some(execution) = &log.execution else { continue };
            ledger.executions += 1;
            let id = Uuid::from_bytes(*key).as_hyphenated().to_string();
            match execution.check(self.task, &id, report).await? {
                Some(true) => ledger.ended += 1,
                Some(false) => ledger.pending += 1,
                None => {}
            }
        }
        Ok((ledger, self.counts))
    }
}

/// The first sequence that an aggregate's log lacks, as the store has it now. `None`: it has no hole, or is gone.
async fn first_hole(task: &Task<'_>, aggregate: &AggregateId) -> Result<Option<u64>, VerifyError> {
    let filter = Filter { aggregate: Some(aggregate.clone()), ..Filter::default() };
    let (mut after, mut next) = (Position(0), 1);
    loop {
        let page = task.store.scan(&filter, after, READ).await?;
        let Some(last) = page.last() else { return Ok(None) };
        after = last.position;
        for stored in page {
            match stored.event.sequence {
                sequence if sequence == next => next += 1,
                // Deleted and begun anew while it was read.
                1 => next = 2,
                _ => return Ok(Some(next)),
            }
        }
    }
}

/// What stands for an aggregate in memory: its id where that is a UUID, as those of executions are.
pub(crate) fn key_of(aggregate_id: &str) -> [u8; 16] {
    match Uuid::try_parse(aggregate_id) {
        Ok(id) => id.into_bytes(),
        Err(_) => Uuid::new_v5(&Uuid::nil(), aggregate_id.as_bytes()).into_bytes(),
    }
}
