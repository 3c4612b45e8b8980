//! The order of what a script writes to its two streams. Two pipes alone can't tell which of them was written to first, so
//! the kernel is asked to note each write to either of them: in one queue, at next to no cost for the script.
//!
//! A note says which pipe was written to, not how much, and several writes to the same pipe in a row are one note. So
//! what was read is divided among the notes by lines. That is exact for a script that writes whole lines in turns, however
//! fast; what can't be told apart are several lines in a row, if the script has since switched more than once before they
//! were read.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::inotify;
use rustix::io::Errno;

use crate::sandbox::OutputStream;

/// How often the notes are read again until none came while the pipes were looked at.
const LOOKS: usize = 8;

const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// The notes about two pipes.
#[derive(Debug)]
pub(super) struct WriteOrder {
    notes: OwnedFd,
    watches: [i32; 2],
    /// The notes that no bytes have been read for, never two of one stream in a row.
    turns: Vec<OutputStream>,
}

/// Bytes that were written to one stream in a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) stream: OutputStream,
    pub(super) data: Vec<u8>,
}

impl WriteOrder {
    /// Begins to take notes about the reading ends of standard output and standard error. `None`: the kernel does not want to (a user has 128 such queues by default); then the order
    /// is that of the reading.
    pub(super) fn of(pipes: [&OwnedFd; 2]) -> Option<WriteOrder> {
        let notes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
        let watch = |pipe: &OwnedFd| {
            let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
            inotify::add_watch(&notes, path, inotify::WatchFlags::MODIFY).ok()
        };
        let watches = [watch(pipes[0])?, watch(pipes[1])?];
        Some(WriteOrder { notes, watches, turns: Vec::new() })
    }

    /// Looks at what is in the pipes at a moment at which all notes about it have been read, if there is such a moment.
    pub(super) fn settled(&mut self, look: impl Fn() -> [u64; 2]) -> [u64; 2] {
        self.read();
        let mut seen = look();
        for _ in 0..LOOKS {
            if !self.read() {
                break;
            }
            seen = look();
        }
        seen
    }

    /// Puts what was read from both pipes in the order in which it was written.
    pub(super) fn put(&mut self, data: [Vec<u8>; 2]) -> Vec<Group> {
        arrange(&std::mem::take(&mut self.turns), data)
    }

    /// What the notes so far are about is read without them.
    pub(super) fn forget(&mut self) {
        self.turns.clear();
    }

    /// Reads the notes. `false`: there were none.
    fn read(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.notes, &mut buffer);
        let mut found = false;
        loop {
            match reader.next() {
                Ok(note) => {
                    found = true;
                    // Anything else is about lost notes.
                    let Some(place) = self.watches.iter().position(|watch| *watch == note.wd()) else { continue };
                    if self.turns.last() != Some(&STREAMS[place]) {
                        self.turns.push(STREAMS[place]);
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return found,
            }
        }
    }
}

/// Divides what was read from both streams among the turns in which it was written.
fn arrange(turns: &[OutputStream], data: [Vec<u8>; 2]) -> Vec<Group> {
    let mut turns: Vec<OutputStream> = turns.to_vec();
    for stream in STREAMS {
        // Written, but not yet noted: that comes last.
        if !data[stream as usize].is_empty() && !turns.contains(&stream) {
            turns.push(stream);
        }
    }
    let mut parts = STREAMS.map(|stream| {
        let count = turns.iter().filter(|turn| **turn == stream).count();
        divide(&data[stream as usize], count).into_iter()
    });
    let mut groups: Vec<Group> = Vec::new();
    for stream in turns {
        let Some(part) = parts[stream as usize].next().filter(|part| !part.is_empty()) else { continue };
        match groups.last_mut() {
            Some(last) if last.stream == stream => last.data.extend_from_slice(part),
            _ => groups.push(Group { stream, data: part.to_vec() }),
        }
    }
    groups
}

/// Divides text into so many parts, of as many whole lines each as can be.
fn divide(data: &[u8], count: usize) -> Vec<&[u8]> {
    if count <= 1 {
        return vec![data; count];
    }
    let lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    // Where there are fewer lines than turns, the first turns are of what was read before they were noted.
    let empty = count.saturating_sub(lines.len());
    let each = lines.len() / (count - empty).max(1);
    let mut parts = vec![&data[..0]; empty];
    let mut rest = data;
    for part in 0..count - empty {
        let last = part + 1 == count - empty;
        let size =
            if last { rest.len() } else { lines[part * each..(part + 1) * each].iter().map(|line| line.len()).sum() };
        let (this, after) = rest.split_at(size);
        parts.push(this);
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use OutputStream::{Stderr as E, Stdout as O};

    fn arranged(turns: &[OutputStream], stdout: &str, stderr: &str) -> Vec<(OutputStream, String)> {
        let groups = arrange(turns, [stdout.as_bytes().to_vec(), stderr.as_bytes().to_vec()]);
        groups.into_iter().map(|group| (group.stream, String::from_utf8(group.data).unwrap())).collect()
    }

    fn text(stream: OutputStream, text: &str) -> (OutputStream, String) {
        (stream, text.to_owned())
    }

    #[test]
    fn lines_in_turns_are_put_in_turns() {
        assert_eq!(
            arranged(&[O, E, O, E], "1\n3\n", "2\n4\n"),
            [text(O, "1\n"), text(E, "2\n"), text(O, "3\n"), text(E, "4\n")]
        );
        assert_eq!(arranged(&[E, O], "2", "1\nx"), [text(E, "1\nx"), text(O, "2")]);
    }

    #[test]
    fn several_lines_in_a_row_are_shared_out() {
        assert_eq!(arranged(&[O, E, O], "1\n2\n4\n5\n", "3\n"), [text(O, "1\n2\n"), text(E, "3\n"), text(O, "4\n5\n")]);
    }

    #[test]
    fn notes_that_come_too_late_or_too_early_do_no_harm() {
        // Written, not noted yet.
        assert_eq!(arranged(&[O], "1\n", "2\n"), [text(O, "1\n"), text(E, "2\n")]);
        // Noted, read before.
        assert_eq!(arranged(&[E, O, E], "1\n", "2\n"), [text(O, "1\n"), text(E, "2\n")]);
        assert_eq!(arranged(&[E, O], "1\n", ""), [text(O, "1\n")]);
        assert_eq!(arranged(&[], "1\n", "2\n"), [text(O, "1\n"), text(E, "2\n")]);
    }

    #[test]
    fn nothing_is_lost() {
        let turns = [O, E, O, E, O];
        for (stdout, stderr) in [("a\nb\nc\nd\ne\nf\ng", "x"), ("a", "b\nc\nd\n"), ("\n\n", "\n\n\n\n\n")] {
            let groups = arranged(&turns, stdout, stderr);
            for (stream, whole) in [(O, stdout), (E, stderr)] {
                let of_stream = groups.iter().filter(|(one, _)| *one == stream).map(|(_, text)| text.as_str());
                assert_eq!(of_stream.collect::<String>(), whole);
            }
        }
    }
}
