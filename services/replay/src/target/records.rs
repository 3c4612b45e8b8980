//! The records of replayed events.

use std::time::SystemTime;

use bytes::Bytes;
use runmesh_bus::{Record, header};
use runmesh_events::Event;

use super::SendError;

/// Makes records of events: as they were published first, and marked.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    replay_id: Bytes,
    /// The only group that is to handle them. `None`: all that take replayed events.
    group: Option<Bytes>,
    preserve_timestamps: bool,
}

impl Records {
    pub(super) fn new(replay_id: &str, preserve_timestamps: bool) -> Self {
        Self { replay_id: Bytes::copy_from_slice(replay_id.as_bytes()), group: None, preserve_timestamps }
    }

    /// The same for one group alone.
    pub(super) fn for_group(self, group: &str) -> Self {
        Self { group: Some(Bytes::copy_from_slice(group.as_bytes())), ..self }
    }

    /// The record of an event.
    pub(super) fn of(&self, event: &Event) -> Result<Record, SendError> {
        let mut record = Record::of(event).map_err(SendError::lasting)?;
        record.headers.push((header::REPLAY.to_owned(), self.replay_id.clone()));
        if let Some(group) = &self.group {
            record.headers.push((header::REDRIVE_GROUP.to_owned(), group.clone()));
        }
        if !self.preserve_timestamps {
            record.timestamp = SystemTime::now();
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use runmesh_bus::conformance::{TOPIC, sample};

    use super::*;

    #[test]
    fn a_record_is_that_of_its_event_with_a_mark() {
        let event = sample(TOPIC, "a", 7);
        let first = Record::of(&event).unwrap();
        let replayed = Records::new("r", true).of(&event).unwrap();
        let headers = [first.headers.clone(), vec![(header::REPLAY.to_owned(), "r".into())]].concat();
        assert_eq!(replayed, Record { headers: headers.clone(), ..first.clone() });
        let before = SystemTime::now();
        let for_group = Records::new("r", false).for_group("g").of(&event).unwrap();
        assert!(for_group.timestamp >= before);
        let headers = [headers, vec![(header::REDRIVE_GROUP.to_owned(), "g".into())]].concat();
        assert_eq!(Record { timestamp: first.timestamp, ..for_group }, Record { headers, ..first });
        assert!(!Records::new("r", true).of(&Event::default()).unwrap_err().transient);
    }
}
