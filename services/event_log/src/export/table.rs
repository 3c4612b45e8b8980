//! Events as rows of comma-separated values (RFC 4180). docs/events.md has the columns.

use runmesh_events::{from_timestamp, json};
use runmesh_store::{StoreError, Stored};

use crate::view;

/// The columns.
pub(super) const COLUMNS: [&str; 12] = [
    "position",
    "event_id",
    "event_type",
    "aggregate_id",
    "sequence",
    "recorded_at",
    "causation_id",
    "correlation_id",
    "producer",
    "user_id",
    "traceparent",
    "payload_json",
];

/// The signs with which a text begins that a spreadsheet would take for a formula, and the one that keeps it from that.
const MARKED: [char; 7] = ['=', '+', '-', '@', '\t', '\r', MARK];
const MARK: char = '\'';

/// The first row.
pub(super) fn head() -> Result<Vec<u8>, StoreError> {
    let mut head = Vec::new();
    write(COLUMNS.map(ToOwned::to_owned), &mut head)?;
    Ok(head)
}

/// Writes the row of an event.
pub(super) fn row(stored: &Stored, to: &mut Vec<u8>) -> Result<(), StoreError> {
    let event = &*stored.event;
    let recorded_at = event.occurred_at.as_ref().and_then(from_timestamp);
    let texts = [
        stored.position.0.to_string(),
        event.event_id.clone(),
        view::topic(stored).to_owned(),
        event.aggregate_id.clone(),
        event.sequence.to_string(),
        recorded_at.map(|time| humantime::format_rfc3339_nanos(time).to_string()).unwrap_or_default(),
        event.causation_id.clone(),
        event.correlation_id.clone(),
        event.producer.clone(),
        event.user_id.clone(),
        event.traceparent.clone(),
        json::of_payload(event),
    ];
    write(texts.map(marked), to)
}

fn write<const N: usize>(texts: [String; N], to: &mut Vec<u8>) -> Result<(), StoreError> {
    let mut row = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(to);
    let written = row.write_record(texts).and_then(|()| row.flush().map_err(Into::into));
    written.map_err(|error| StoreError::Backend(format!("a row can't be written: {error}")))
}

/// A text that no spreadsheet takes for a formula. Whoever reads it by program takes away a mark at the beginning.
fn marked(text: String) -> String {
    if text.starts_with(MARKED) { format!("{MARK}{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_take_for_a_formula_is_marked_and_can_be_had_back() {
        let texts = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "'a", "''", "a=1", "", "{\"a\":1}", " =1"];
        for text in texts {
            let cell = marked(text.to_owned());
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell:?}");
            assert_eq!(cell.strip_prefix(MARK).unwrap_or(&cell), text);
        }
    }
}
