//! Reads what a script writes, and hands it on.

use std::io;
use std::time::{Duration, Instant};

use super::{Cause, Supervisor};
use crate::sandbox::OutputStream;

/// How often both pipes are read in a row until nothing was written meanwhile.
const LOOKS: usize = 8;
/// How long output is held whose order is not certain. The note that tells comes at once, unless the script was stopped
/// just before it; if it does not come, there was none to wait for.
const HELD: Duration = Duration::from_millis(2);

impl Supervisor {
    /// How many bytes may be read now; 0 when the script has to wait.
    pub(super) fn room(&self) -> usize {
        self.output.room().saturating_sub(self.order.as_ref().map_or(0, |order| order.turns.waiting()))
    }

    /// When output is handed on whose order is not certain.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let since = self.order.as_ref().and_then(|order| order.held_since())?;
        // If the script has to wait, it waits for what comes before.
        (self.output.room() > 0).then(|| since + HELD)
    }

    pub(super) fn on_readable(&mut self, stream: OutputStream, ready: io::Result<()>, room: usize) {
        self.read_notes();
        let source = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        match ready.and_then(|()| source.read(&mut self.buffer[..room])) {
            Ok(0) => source.close(),
            Ok(count) => self.take(stream, count),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(execution_id = %self.spec.execution_id, %error, ?stream, "could not read a script's output");
                source.close();
            }
        }
        let now = Instant::now();
        self.read_in_order(now);
        self.pass_on(now);
    }

    /// Hands on what is held: nothing has told its order in time.
    pub(super) fn give_up_the_order(&mut self, now: Instant) {
        // Unless a note has come that nothing was written after.
        self.read_notes();
        self.read_in_order(now);
        self.hand_on();
        self.pass_on(now);
    }

    /// Everything has been read.
    pub(super) fn finish_output(&mut self, now: Instant) {
        self.hand_on();
        self.pass_on(now);
        self.output.finish();
    }

    /// Reads both pipes until nothing was written to either meanwhile: then all that was read is noted, and all that is
    /// noted was read.
    fn read_in_order(&mut self, now: Instant) {
        let keeps_order = self.output.keeps_order(now);
        for _ in 0..LOOKS {
            if !keeps_order || self.room() == 0 {
                return self.hand_on();
            }
            if self.order.is_none() {
                return;
            }
            for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                // The other stream may have filled it just now.
                let room = self.room();
                let source = match stream {
                    OutputStream::Stdout => &mut self.stdout,
                    OutputStream::Stderr => &mut self.stderr,
                };
                if let Ok(count @ 1..) = source.read_now(&mut self.buffer[..room]) {
                    self.take(stream, count);
                }
            }
            if !self.read_notes() {
                if let Some(order) = &mut self.order {
                    order.turns.settle();
                }
                return;
            }
        }
    }

    /// `false`: there were none.
    fn read_notes(&mut self) -> bool {
        self.order.as_mut().is_some_and(|order| order.read())
    }

    fn hand_on(&mut self) {
        if let Some(order) = &mut self.order {
            order.turns.hand_on();
        }
    }

    /// Takes what was read into the buffer.
    fn take(&mut self, stream: OutputStream, count: usize) {
        match &mut self.order {
            // What fills all the room is a flood: nothing is held, and nothing else can be read with it.
            Some(order) if count < self.output.room() => order.turns.add(stream, &self.buffer[..count]),
            _ => {
                let data = std::mem::take(&mut self.buffer);
                self.push(stream, &data[..count]);
                self.buffer = data;
            }
        }
    }

    /// Passes on what is in order.
    fn pass_on(&mut self, now: Instant) {
        let groups = self.order.as_mut().map(|order| order.take(now)).unwrap_or_default();
        for group in groups {
            self.push(group.stream, &group.data);
        }
    }

    fn push(&mut self, stream: OutputStream, data: &[u8]) {
        if !self.truncated && !self.output.push(stream, data, Instant::now()) {
            self.truncated = true;
            self.end(Cause::Output);
            self.stdout.close();
            self.stderr.close();
        }
    }

    pub(super) fn on_sendable(&mut self, wanted: bool) {
        if !wanted {
            return self.output.discard();
        }
        if let Some(chunk) = self.output.pop(Instant::now()) {
            // There is room: nobody else sends. If the owner has gone since, the chunk is not wanted any more.
            self.side.output.try_send(chunk).ok();
        }
    }
}
