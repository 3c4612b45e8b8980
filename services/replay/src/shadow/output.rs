//! What a run wrote, and where two of them differ.

use runmesh_events::{AggregateId, EventType, Payload};
use runmesh_proto::{
    event::{ExecutionStep, OutputStream},
    replay::OutputDifference,
};
use runmesh_store::{EventStore, StoreError, read_log};

use crate::view::number;

/// The greatest number of characters of a line that is shown.
const LINE: usize = 200;

/// What a run wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outputs {
    /// What an execution's log has of it: of its last attempt, without what a compiler wrote.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn read(store: &dyn EventStore, execution_id: &str) -> Result<Self, StoreError> {
        let types = [EventType::ExecutionOutput, EventType::PodTerminated];
        let (events, _) = read_log(store, &AggregateId::from(execution_id), &types).await?;
        let mut outputs = Self::default();
        for event in &events {
            match &event.payload {
                Some(Payload::PodTerminated(ended)) if ended.lost_attempt > 0 => outputs = Self::default(),
                Some(Payload::ExecutionOutput(output)) if output.step() != ExecutionStep::Compile => {
                    match output.stream() {
                        OutputStream::Stderr => outputs.stderr.extend_from_slice(&output.data),
                        _ => outputs.stdout.extend_from_slice(&output.data),
                    }
                }
                _ => {}
            }
        }
        Ok(outputs)
    }
}

/// Where two outputs differ first. `None`: nowhere.
pub(crate) fn first_difference(original: &[u8], rerun: &[u8]) -> Option<OutputDifference> {
    if original == rerun {
        return None;
    }
    let common = original.iter().zip(rerun).take_while(|(one, other)| one == other).count();
    let before = &original[..common];
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    Some(OutputDifference {
        common_bytes: number(common as u64),
        line: number(line as u64),
        original_line: text(&original[start..]),
        rerun_line: text(&rerun[start..]),
        original_bytes: number(original.len() as u64),
        rerun_bytes: number(rerun.len() as u64),
    })
}

/// The line that this begins with.
fn text(rest: &[u8]) -> String {
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // A character has at most four bytes.
    String::from_utf8_lossy(&line[..line.len().min(LINE * 4)]).chars().take(LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_differs_is_found() {
        assert_eq!(first_difference(b"a\nb\n", b"a\nb\n"), None);
        let found = first_difference("a\nb\u{e4}c\nd".as_bytes(), "a\nb\u{fc}c\nd".as_bytes()).unwrap();
        assert_eq!((found.line, found.common_bytes), (2, 4));
        assert_eq!((found.original_line.as_str(), found.rerun_line.as_str()), ("b\u{e4}c", "b\u{fc}c"));
        let shorter = first_difference(b"a\nb\n", b"a\n").unwrap();
        assert_eq!((shorter.line, shorter.original_line.as_str(), shorter.rerun_line.as_str()), (2, "b", ""));
        assert_eq!((shorter.original_bytes, shorter.rerun_bytes), (4, 2));
        let long = first_difference("x".repeat(1_000).as_bytes(), b"\xff").unwrap();
        assert_eq!((long.original_line.len(), long.rerun_line.as_str()), (200, "\u{fffd}"));
    }
}
