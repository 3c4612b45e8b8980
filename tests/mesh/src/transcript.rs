//! What a watch brought, and what must hold of it.

use anyhow::{Context as _, bail, ensure};
use runmesh_proto::{
    event::{Event, ExecutionStep, OutputStream, event::Payload},
    execution::{Execution, WatchExecutionResponse, watch_execution_response::Item},
};

/// The messages of one watch, or of several that continued each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    /// The messages in the order in which they came.
    pub messages: Vec<WatchExecutionResponse>,
}

impl Transcript {
    /// The cursors in order.
    pub fn cursors(&self) -> Vec<&str> {
        self.messages.iter().map(|message| message.cursor.as_str()).collect()
    }

    /// The events in order.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.messages.iter().filter_map(|message| match &message.item {
            Some(Item::Event(event)) => Some(event),
            _ => None,
        })
    }

    /// The names of the events' types, as topics are named, pieces of output left out.
    pub fn types(&self) -> Vec<String> {
        self.events()
            .filter_map(|event| event.payload.as_ref())
            .filter(|payload| !matches!(payload, Payload::ExecutionOutput(_)))
            .map(|payload| payload.event_type().as_str_name().trim_start_matches("EVENT_TYPE_").to_lowercase())
            .collect()
    }

    /// The execution in the last message.
    ///
    /// # Errors
    /// When the last message is not `end`.
    pub fn end(&self) -> anyhow::Result<&Execution> {
        match self.messages.last().and_then(|message| message.item.as_ref()) {
            Some(Item::End(end)) => end.execution.as_ref().context("an end without the execution"),
            other => bail!("the last of {} messages is not the end: {other:?}", self.messages.len()),
        }
    }

    /// The one terminal event.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn terminal(&self) -> anyhow::Result<&Payload> {
        let mut all = self.events().filter_map(|event| event.payload.as_ref()).filter(|payload| is_terminal(payload));
        let one = all.next().context("no terminal event")?;
        ensure!(all.next().is_none(), "more than one terminal event: {:?}", self.types());
        Ok(one)
    }

    /// One stream's bytes as the program wrote them, put together from the pieces.
    ///
    /// # Errors
    /// When a piece is not where the one before it ended.
    pub fn output(&self, stream: OutputStream) -> anyhow::Result<Vec<u8>> {
        self.output_of(ExecutionStep::Run, stream)
    }

    /// The same of one step.
    ///
    /// # Errors
    /// As [`Transcript::output`].
    pub fn output_of(&self, step: ExecutionStep, stream: OutputStream) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for event in self.events() {
            let Some(Payload::ExecutionOutput(piece)) = &event.payload else { continue };
            if piece.stream() != stream || piece.step() != step {
                continue;
            }
            ensure!(
                usize::try_from(piece.offset).is_ok_and(|offset| offset == bytes.len()),
                "a piece of {} at {}, but {} bytes came before it",
                stream.as_str_name(),
                piece.offset,
                bytes.len()
            );
            ensure!(!piece.data.is_empty(), "an empty piece of output");
            bytes.extend_from_slice(&piece.data);
        }
        Ok(bytes)
    }

    /// Standard output.
    ///
    /// # Errors
    /// As [`Transcript::output`].
    pub fn stdout(&self) -> anyhow::Result<Vec<u8>> {
        self.output(OutputStream::Stdout)
    }

    /// Checks what holds of every complete log: it begins with the request, sequences only grow, all events belong to
    /// one execution, there is one terminal event and no output after it, and the last message is the end.
    ///
    /// # Errors
    /// When something does not hold.
    pub fn complete(&self) -> anyhow::Result<&Execution> {
        let end = self.end()?;
        let first = self.events().next().context("a log without events")?;
        ensure!(first.sequence == 1, "the log begins with sequence {}", first.sequence);
        ensure!(
            matches!(first.payload, Some(Payload::ExecutionRequested(_))),
            "the log begins with {:?}",
            first.payload
        );
        let mut before = 0;
        let mut ended = false;
        for event in self.events() {
            ensure!(event.aggregate_id == end.execution_id, "an event of {} in the log", event.aggregate_id);
            ensure!(event.sequence > before, "sequence {} after {before}", event.sequence);
            before = event.sequence;
            let payload = event.payload.as_ref().context("an event without a payload")?;
            ensure!(!ended || !matches!(payload, Payload::ExecutionOutput(_)), "output after the terminal event");
            ended |= is_terminal(payload);
        }
        self.terminal()?;
        let ends = self.messages.iter().filter(|message| matches!(message.item, Some(Item::End(_)))).count();
        ensure!(ends == 1, "{ends} ends");
        let mut cursors = self.cursors();
        cursors.sort_unstable();
        cursors.dedup();
        ensure!(cursors.len() == self.messages.len(), "a cursor came twice");
        Ok(end)
    }
}

/// Whether the event ends an execution.
pub fn is_terminal(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::ExecutionCompleted(_)
            | Payload::ExecutionFailed(_)
            | Payload::ExecutionTimeout(_)
            | Payload::ExecutionCancelled(_)
    )
}
