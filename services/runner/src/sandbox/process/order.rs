//! The order of what a script writes to its two streams. Two pipes alone can't tell which of them was written to first, so
//! the kernel is asked to note each write to either of them, in one queue; that costs the script less than a microsecond.
//! [`turns`] divides what was read among these notes.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::inotify;
use rustix::io::Errno;

use crate::sandbox::OutputStream;

mod turns;

pub(super) use turns::{Group, Turns};

/// How many notes are read at once, at most.
const AT_ONCE: usize = 256;

const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// Queues for notes that nobody uses at the moment, kept because to close one takes the kernel some 20 ms.
#[derive(Debug, Default)]
pub(super) struct Queues(Mutex<Vec<OwnedFd>>);

/// How many of them are kept.
const KEPT: usize = 32;

impl Queues {
    fn take(&self) -> Option<OwnedFd> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.or_else(|| inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok())
    }

    /// Takes one back, or closes it.
    fn put(&self, queue: OwnedFd) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(queue);
        }
    }
}

/// The notes about two pipes, and what was read of them and is not yet in order.
#[derive(Debug)]
pub(super) struct WriteOrder {
    queues: Arc<Queues>,
    /// `None`: given back.
    notes: Option<OwnedFd>,
    watches: Vec<i32>,
    pub(super) turns: Turns,
    held_since: Option<Instant>,
}

impl WriteOrder {
    /// Begins to take notes about the reading ends of standard output and standard error. `None`: the kernel does not
    /// want to (a user has 128 such queues by default); then the order is that of the reading.
    pub(super) fn of(queues: &Arc<Queues>, pipes: [&OwnedFd; 2]) -> Option<WriteOrder> {
        let queues = Arc::clone(queues);
        let notes = Some(queues.take()?);
        let mut order = WriteOrder { queues, notes, watches: Vec::new(), turns: Turns::default(), held_since: None };
        for pipe in pipes {
            let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
            let watch = inotify::add_watch(order.notes.as_ref()?, path, inotify::WatchFlags::MODIFY).ok()?;
            order.watches.push(watch);
        }
        Some(order)
    }

    /// Reads the notes. `false`: there were none.
    pub(super) fn read(&mut self) -> bool {
        let Some(notes) = &self.notes else { return false };
        let mut buffer = [MaybeUninit::uninit(); AT_ONCE * size_of::<libc::inotify_event>()];
        let mut reader = inotify::Reader::new(notes, &mut buffer);
        let mut count = 0;
        loop {
            match reader.next().map(|note| note.wd()) {
                Ok(watch) => {
                    count += 1;
                    // Anything else is about lost notes.
                    if let Some(place) = self.watches.iter().position(|one| *one == watch) {
                        self.turns.note(STREAMS[place]);
                    }
                    if count < AT_ONCE && reader.is_buffer_empty() {
                        return true;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return count > 0,
            }
        }
    }

    /// What is in order now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Group> {
        let groups = self.turns.take();
        if !groups.is_empty() {
            self.held_since = None;
        }
        self.held_since = (self.turns.held() > 0).then(|| self.held_since.unwrap_or(now));
        groups
    }

    /// Since when output has been held whose order is not certain.
    pub(super) fn held_since(&self) -> Option<Instant> {
        self.held_since
    }
}

impl Drop for WriteOrder {
    fn drop(&mut self) {
        if let Some(notes) = &self.notes {
            // The watch of a pipe that is gone is gone too.
            self.watches.iter().for_each(|watch| inotify::remove_watch(notes, *watch).unwrap_or_default());
        }
        // The next user has other watches; what is left of these would only be in the way.
        while self.read() {}
        if let Some(notes) = self.notes.take() {
            self.queues.put(notes);
        }
    }
}
