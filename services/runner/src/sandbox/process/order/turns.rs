//! Divides what was read from two streams among the turns in which it was written. Pure.
//!
//! A note says which stream was written to, not how much, and several writes to the same stream in a row are one note: a
//! turn. So what was read is divided among the turns by lines, which is exact for whole lines in turns. What can't be told
//! apart are several lines in a row, if the script has since switched more than once before they were read.
//!
//! The kernel makes a note only after the bytes are in the pipe. So the last write may have been read and not be noted
//! yet; then its stream has a line more than it has turns, just like after two lines in a row. Where that matters, all is
//! held until the next note tells, which comes at once unless the script has been stopped in between.

use super::STREAMS;
use crate::sandbox::OutputStream;

/// Bytes that were written to one stream in a row.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Group {
    pub(in super::super) stream: OutputStream,
    pub(in super::super) data: Vec<u8>,
}

/// The turns, and the bytes, that have not been brought together yet.
#[derive(Debug, Default)]
pub(in super::super) struct Turns {
    /// Never two of one stream in a row.
    turns: Vec<OutputStream>,
    held: [Vec<u8>; 2],
    /// The stream of which a write may have been handed on before it was noted.
    early: Option<OutputStream>,
    /// Whether the first turn may be about that write.
    stale: bool,
    /// The stream of which the last write that is held may not be noted yet.
    doubt: Option<OutputStream>,
    done: Vec<Group>,
}

impl Turns {
    /// The kernel has noted a write.
    pub(super) fn note(&mut self, stream: OutputStream) {
        if self.doubt.take().is_some_and(|doubt| doubt != stream) {
            // Nobody writes before the last write is noted: so what is held was noted, as several lines in a row.
            self.hand_on();
        }
        if let Some(early) = self.early.take() {
            self.stale = early == stream;
        }
        if self.turns.last() != Some(&stream) {
            self.turns.push(stream);
        }
    }

    /// This was read.
    pub(in super::super) fn add(&mut self, stream: OutputStream, data: &[u8]) {
        self.doubt = None;
        self.held[stream as usize].extend_from_slice(data);
    }

    /// How many bytes were read and not taken: those that are held, and those that are in order.
    pub(in super::super) fn waiting(&self) -> usize {
        self.held() + self.done.iter().map(|group| group.data.len()).sum::<usize>()
    }

    /// How many bytes are held.
    pub(in super::super) fn held(&self) -> usize {
        self.held.iter().map(Vec::len).sum()
    }

    /// No note came while the pipes were read: so all that is held is noted, but perhaps the last write. Hands it on,
    /// unless its order depends on that.
    pub(in super::super) fn settle(&mut self) {
        self.doubt = self.doubted();
        if self.doubt.is_none() {
            self.hand_on();
        }
    }

    /// Hands on all that is held, in the most likely order. What has been noted so far was about that.
    pub(in super::super) fn hand_on(&mut self) {
        self.doubt = None;
        if self.held() > 0 {
            let last = self.last();
            self.early = [other(last), last].into_iter().find(|stream| self.has_more_lines_than_turns(*stream));
            let held = std::mem::take(&mut self.held);
            arrange(&self.turns, held, &mut self.done);
        }
        self.turns.clear();
        self.stale = false;
    }

    /// What is in order.
    pub(in super::super) fn take(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.done)
    }

    /// The stream whose last write may have come after all turns, though it has turns before the last.
    fn doubted(&self) -> Option<OutputStream> {
        let stream = other(self.last());
        // Without any turn, it comes last anyway; with nothing else, it matters not.
        let matters = self.turns.contains(&stream) && self.held.iter().all(|held| !held.is_empty());
        (matters && self.has_more_lines_than_turns(stream)).then_some(stream)
    }

    fn last(&self) -> OutputStream {
        self.turns.last().copied().unwrap_or(OutputStream::Stderr)
    }

    fn has_more_lines_than_turns(&self, stream: OutputStream) -> bool {
        let turns = self.turns.iter().skip(usize::from(self.stale)).filter(|turn| **turn == stream).count();
        self.held[stream as usize].split_inclusive(|byte| *byte == b'\n').take(turns + 1).count() > turns
    }
}

fn other(stream: OutputStream) -> OutputStream {
    match stream {
        OutputStream::Stdout => OutputStream::Stderr,
        OutputStream::Stderr => OutputStream::Stdout,
    }
}

/// Divides all that was read from both streams among the turns in which it was written.
fn arrange(turns: &[OutputStream], held: [Vec<u8>; 2], groups: &mut Vec<Group>) {
    if let Some(stream) = STREAMS.into_iter().find(|stream| held[other(*stream) as usize].is_empty()) {
        let [stdout, stderr] = held;
        let data = if stream == OutputStream::Stdout { stdout } else { stderr };
        return groups.push(Group { stream, data });
    }
    let mut turns = turns.to_vec();
    for stream in STREAMS {
        // Written, but not yet noted: that comes last.
        if !turns.contains(&stream) {
            turns.push(stream);
        }
    }
    let mut parts = STREAMS.map(|stream| {
        let count = turns.iter().filter(|turn| **turn == stream).count();
        divide(&held[stream as usize], count).into_iter()
    });
    for stream in turns {
        let Some(part) = parts[stream as usize].next().filter(|part| !part.is_empty()) else { continue };
        match groups.last_mut() {
            Some(last) if last.stream == stream => last.data.extend_from_slice(part),
            _ => groups.push(Group { stream, data: part.to_vec() }),
        }
    }
}

/// Divides text into so many parts, of as many whole lines each as can be.
fn divide(data: &[u8], count: usize) -> Vec<&[u8]> {
    let lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    // Where there are fewer lines than turns, the first turns are about what was handed on before they were noted.
    let empty = count.saturating_sub(lines.len());
    let each = lines.len() / (count - empty).max(1);
    let mut parts = vec![&data[..0]; empty];
    let mut rest = data;
    for part in empty..count {
        let last = part + 1 == count;
        let lines = &lines[(part - empty) * each..];
        let size = if last { rest.len() } else { lines[..each].iter().map(|line| line.len()).sum() };
        let (this, after) = rest.split_at(size);
        parts.push(this);
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests;
