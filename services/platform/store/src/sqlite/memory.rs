//! What was written last, kept in memory by the one thread that writes: the newest records for groups that are up to
//! date, and whole logs of recent aggregates for those that read them again and again.
//!
//! Both are exact: they change after each commit, before anyone is told of it, and what does not fit is forgotten as a
//! whole, never in part.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use runmesh_events::{AggregateId, Event, EventType};

use super::records::{Origin, TableRecord, TableRecords};
use crate::{Position, Stored};

/// How many records are kept, and how many bytes of them.
const RECORDS: (usize, usize) = (8_192, 16 << 20);

/// How many logs are kept, how many bytes of them, and how many bytes of one.
const LOGS: (usize, usize, usize) = (4_096, 16 << 20, 1 << 20);

/// What an event takes beside its body, about.
const OVERHEAD: usize = 512;

/// The newest records and logs.
#[derive(Debug)]
pub(super) struct Memory {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    records: VecDeque<TableRecord>,
    record_bytes: usize,
    /// Every record after this position is in `records`.
    complete_after: Position,
    logs: HashMap<AggregateId, Log>,
    /// The aggregates of `logs`, the oldest first, and some that were forgotten since.
    order: VecDeque<AggregateId>,
    log_bytes: usize,
}

/// All events of an aggregate, from the first.
#[derive(Debug, Default)]
struct Log {
    events: Vec<Arc<Event>>,
    bytes: usize,
}

impl Memory {
    /// An empty memory of a file whose newest record is at this position.
    pub(super) fn new(newest: Position) -> Self {
        let state = State {
            records: VecDeque::new(),
            record_bytes: 0,
            complete_after: newest,
            logs: HashMap::new(),
            order: VecDeque::new(),
            log_bytes: 0,
        };
        Self { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was committed: records in the order of their positions, events that stand for those that were there,
    /// and aggregates that were deleted.
    pub(super) fn committed(&self, records: &[TableRecord], replaced: &[(Stored, Bytes)], deleted: &[AggregateId]) {
        let mut state = self.lock();
        for record in records {
            if let Origin::Fact(event) = &record.origin {
                state.add_to_log(event, record.body.len() + OVERHEAD);
            }
            state.add_record(record.clone());
        }
        for (stored, body) in replaced {
            state.replace(stored, body);
        }
        for aggregate in deleted {
            state.forget(aggregate);
        }
    }

    /// For each type, at most `limit` of its records after a position. `None`: some of them may not be here.
    pub(super) fn records(&self, places: &[(EventType, Position)], limit: usize) -> Option<Vec<TableRecords>> {
        let state = self.lock();
        places.iter().map(|(event_type, after)| state.records(*event_type, *after, limit)).collect()
    }

    /// At most `limit` events of an aggregate after a sequence, of these types (empty: of all). `None`: its log is not
    /// here.
    pub(super) fn read(
        &self,
        aggregate: &AggregateId,
        after: u64,
        limit: usize,
        types: &[EventType],
    ) -> Option<Vec<Arc<Event>>> {
        let state = self.lock();
        let log = state.logs.get(aggregate)?;
        let start = usize::try_from(after).unwrap_or(usize::MAX).min(log.events.len());
        let wanted = |event: &&Arc<Event>| {
            types.is_empty() || event.payload.as_ref().is_some_and(|payload| types.contains(&payload.event_type()))
        };
        Some(log.events[start..].iter().filter(wanted).take(limit).cloned().collect())
    }

    /// The newest sequence of an aggregate. `None`: its log is not here.
    pub(super) fn head(&self, aggregate: &AggregateId) -> Option<u64> {
        self.lock().logs.get(aggregate).map(|log| log.events.len() as u64)
    }
}

impl State {
    fn records(&self, event_type: EventType, after: Position, limit: usize) -> Option<TableRecords> {
        if after < self.complete_after {
            return None;
        }
        let start = self.records.partition_point(|record| record.position <= after);
        let newest = self.records.back().map_or(after, |record| record.position.max(after));
        let of_type = self.records.range(start..).filter(|record| record.event_type == event_type);
        let records: Vec<TableRecord> = of_type.take(limit).cloned().collect();
        let upto = records.last().filter(|_| records.len() == limit).map_or(newest, |record| record.position);
        Some(TableRecords { records, upto })
    }

    fn add_record(&mut self, record: TableRecord) {
        self.record_bytes += record.body.len() + OVERHEAD;
        self.records.push_back(record);
        while self.records.len() > RECORDS.0 || self.record_bytes > RECORDS.1 {
            let Some(oldest) = self.records.pop_front() else { break };
            self.record_bytes -= oldest.body.len() + OVERHEAD;
            self.complete_after = oldest.position;
        }
    }

    fn add_to_log(&mut self, event: &Arc<Event>, bytes: usize) {
        let aggregate = AggregateId::from(event.aggregate_id.as_str());
        if event.sequence == 1 {
            self.forget(&aggregate);
            self.order.push_back(aggregate.clone());
            self.logs.insert(aggregate.clone(), Log::default());
        }
        let Some(log) = self.logs.get_mut(&aggregate) else { return };
        log.events.push(Arc::clone(event));
        log.bytes += bytes;
        self.log_bytes += bytes;
        if log.bytes > LOGS.2 {
            self.forget(&aggregate);
        }
        while self.logs.len() > LOGS.0 || self.log_bytes > LOGS.1 || self.order.len() > 2 * LOGS.0 {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(&oldest);
        }
    }

    fn replace(&mut self, stored: &Stored, body: &Bytes) {
        if let Ok(index) = self.records.binary_search_by_key(&stored.position, |record| record.position) {
            let record = &mut self.records[index];
            self.record_bytes = self.record_bytes + body.len() - record.body.len();
            (record.body, record.origin) = (body.clone(), Origin::Fact(Arc::clone(&stored.event)));
        }
        // The sizes of a log's events are not known one by one, so it is read anew.
        self.forget(&AggregateId::from(stored.event.aggregate_id.as_str()));
    }

    fn forget(&mut self, aggregate: &AggregateId) {
        if let Some(log) = self.logs.remove(aggregate) {
            self.log_bytes -= log.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use runmesh_events::Payload;
    use runmesh_proto::event::{ExecutionOutput, ExecutionRunning};

    use super::*;

    fn record(position: u64, aggregate: &str, sequence: u64, payload: impl Into<Payload>, size: usize) -> TableRecord {
        let payload = payload.into();
        let event_type = payload.event_type();
        let aggregate_id = aggregate.to_owned();
        let event = Event { aggregate_id, sequence, payload: Some(payload), ..Event::default() };
        TableRecord {
            position: Position(position),
            event_type,
            recorded_at: SystemTime::UNIX_EPOCH,
            body: Bytes::from(vec![0; size]),
            origin: Origin::Fact(Arc::new(event)),
        }
    }

    fn records(memory: &Memory, event_type: EventType, after: Position, limit: usize) -> Option<TableRecords> {
        memory.records(&[(event_type, after)], limit)?.pop()
    }

    #[test]
    fn records_that_were_forgotten_are_never_passed_over_in_silence() {
        let memory = Memory::new(Position(10));
        assert!(records(&memory, EventType::ExecutionOutput, Position(9), 5).is_none());
        assert_eq!(records(&memory, EventType::ExecutionOutput, Position(10), 5).unwrap().upto, Position(10));
        let size = RECORDS.1 / 4;
        for position in 11..=20 {
            memory.committed(&[record(position, "a", position, ExecutionOutput::default(), size)], &[], &[]);
        }
        assert!(records(&memory, EventType::ExecutionOutput, Position(10), 5).is_none());
        let found = records(&memory, EventType::ExecutionOutput, Position(18), 5).unwrap();
        let positions: Vec<u64> = found.records.iter().map(|record| record.position.0).collect();
        assert_eq!((positions.as_slice(), found.upto), ([19, 20].as_slice(), Position(20)));
        // The other types are known to have nothing up to there.
        let none = records(&memory, EventType::ExecutionRunning, Position(18), 5).unwrap();
        assert_eq!((none.records.len(), none.upto), (0, Position(20)));
        // A full page goes no further than its last record.
        let page = records(&memory, EventType::ExecutionOutput, Position(18), 1).unwrap();
        assert_eq!(page.upto, Position(19));
    }

    #[test]
    fn a_log_is_here_from_its_first_event_or_not_at_all() {
        let memory = Memory::new(Position(0));
        let aggregate = AggregateId::from("a");
        memory.committed(&[record(1, "a", 7, ExecutionRunning::default(), 1)], &[], &[]);
        assert_eq!(memory.head(&aggregate), None);
        memory.committed(
            &[
                record(2, "b", 1, ExecutionRunning::default(), 1),
                record(3, "b", 2, ExecutionOutput::default(), 1),
                record(4, "b", 3, ExecutionRunning::default(), 1),
            ],
            &[],
            &[],
        );
        let aggregate = AggregateId::from("b");
        assert_eq!(memory.head(&aggregate), Some(3));
        let read = |after, limit, types: &[EventType]| {
            let events = memory.read(&aggregate, after, limit, types).unwrap();
            events.iter().map(|event| event.sequence).collect::<Vec<_>>()
        };
        assert_eq!(read(0, 10, &[]), [1, 2, 3]);
        assert_eq!(read(1, 1, &[]), [2]);
        assert_eq!(read(0, 10, &[EventType::ExecutionRunning]), [1, 3]);
        assert!(read(9, 10, &[]).is_empty());
        // One that grows too large is forgotten as a whole.
        memory.committed(&[record(5, "b", 4, ExecutionOutput::default(), LOGS.2)], &[], &[]);
        assert_eq!(memory.head(&aggregate), None);
        memory.committed(&[record(6, "c", 1, ExecutionRunning::default(), 1)], &[], &[]);
        memory.committed(&[], &[], &[AggregateId::from("c")]);
        assert_eq!(memory.head(&AggregateId::from("c")), None);
    }
}
