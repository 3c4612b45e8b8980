//! Which output goes on when: a lone line at once, a flood in few large chunks. Pure: time is handed in.
//!
//! Pieces keep the order in which they were read. After a quiet time a piece that ends a line is due at once, one that
//! doesn't waits a moment for the rest of its line (Python writes the line and its end separately). Then nothing is
//! due before the window since the last chunk has passed, unless enough for a full chunk waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::sandbox::{Chunk, OutputStream};

/// How long a piece that doesn't end a line waits for more.
const LINE_LINGER: Duration = Duration::from_millis(2);
/// How many switches between the two streams wait before the script has to.
const MOST_PIECES: usize = 64;
/// How many switches between the two streams are kept in their order: so many at first, and so many more per second. A
/// script that goes on to switch faster than that gets few large chunks of each stream instead of a flood of small ones.
const SWITCHES: f64 = 2000.0;
const SWITCHES_PER_SECOND: f64 = 200.0;

#[derive(Debug)]
pub(super) struct Coalescer {
    window: Duration,
    capacity: usize,
    pieces: VecDeque<Piece>,
    waiting: usize,
    /// When the oldest waiting byte came.
    since: Option<Instant>,
    last_sent: Option<Instant>,
    /// How many pieces at the front are due whatever the time is.
    released: usize,
    finished: bool,
    counts: [u64; 2],
    limit: u64,
    /// How many switches between the streams are still kept, and when that was so.
    switches: (f64, Option<Instant>),
}

#[derive(Debug)]
struct Piece {
    stream: OutputStream,
    offset: u64,
    data: BytesMut,
}

impl Coalescer {
    pub(super) fn new(window: Duration, capacity: usize, limit: u64) -> Coalescer {
        Coalescer {
            window,
            capacity: capacity.max(1),
            pieces: VecDeque::new(),
            waiting: 0,
            since: None,
            last_sent: None,
            released: 0,
            finished: false,
            counts: [0; 2],
            limit,
            switches: (SWITCHES, None),
        }
    }

    /// How many bytes may be read now; 0 when the script has to wait.
    pub(super) fn room(&self) -> usize {
        if self.pieces.len() >= MOST_PIECES { 0 } else { self.capacity - self.waiting.min(self.capacity) }
    }

    /// Whether the order of what is written to the two streams is still kept.
    pub(super) fn keeps_order(&mut self, now: Instant) -> bool {
        let (left, since) = &mut self.switches;
        let passed = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        *left = (*left + passed.as_secs_f64() * SWITCHES_PER_SECOND).min(SWITCHES);
        *since = Some(now);
        *left >= 1.0
    }

    /// Where in the queue more of a stream goes. `None`: into a piece of its own.
    fn place(&mut self, stream: OutputStream, now: Instant) -> Option<usize> {
        let last = self.pieces.len().checked_sub(1)?;
        if self.pieces[last].stream == stream {
            // Also if it is due already: it has not been sent.
            return Some(last);
        }
        if self.keeps_order(now) {
            self.switches.0 -= 1.0;
            return None;
        }
        self.pieces.iter().rposition(|piece| piece.stream == stream)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes taken from a stream so far, within the limit.
    pub(super) fn count(&self, stream: OutputStream) -> u64 {
        self.counts[stream as usize]
    }

    /// Takes what was read, at most [`Coalescer::room`] bytes. `false`: that is beyond the limit; what is within has been taken.
    pub(super) fn push(&mut self, stream: OutputStream, data: &[u8], now: Instant) -> bool {
        let left = self.limit - self.counts.iter().sum::<u64>();
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        let offset = self.counts[stream as usize];
        if taken > 0 {
            self.counts[stream as usize] += taken as u64;
            self.waiting += taken;
            self.since.get_or_insert(now);
            match self.place(stream, now) {
                Some(place) => self.pieces[place].data.extend_from_slice(&data[..taken]),
                None => self.pieces.push_back(Piece { stream, offset, data: BytesMut::from(&data[..taken]) }),
            }
        }
        taken == data.len()
    }

    /// When the first piece is due. `None`: nothing waits.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let last = self.pieces.back()?;
        if self.finished || self.released > 0 || self.room() == 0 {
            return Some(now);
        }
        let since = self.since.unwrap_or(now);
        let line = if last.data.ends_with(b"\n") { since } else { since + LINE_LINGER };
        Some(self.last_sent.map_or(line, |sent| line.max(sent + self.window)))
    }

    /// The first piece, to be sent now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Chunk> {
        if self.released == 0 {
            self.released = self.pieces.len();
        }
        let Piece { stream, offset, data } = self.pieces.pop_front()?;
        self.released -= 1;
        self.waiting -= data.len();
        self.last_sent = Some(now);
        self.since = (!self.pieces.is_empty()).then_some(now);
        Some(Chunk { stream, offset, data: data.freeze() })
    }

    /// No more will come: all that waits is due.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Throws away what waits: nobody wants it.
    pub(super) fn discard(&mut self) {
        self.pieces.clear();
        self.waiting = 0;
        self.released = 0;
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(5);

    fn coalescer() -> (Coalescer, Instant) {
        (Coalescer::new(WINDOW, 1024, 4096), Instant::now())
    }

    #[test]
    fn a_lone_line_is_due_at_once() {
        let (mut output, now) = coalescer();
        output.push(OutputStream::Stdout, b"hello\n", now);
        assert_eq!(output.due(now), Some(now));
        assert_eq!(output.pop(now).unwrap().data, "hello\n");
        assert_eq!(output.due(now), None);
    }

    #[test]
    fn a_part_of_a_line_waits_a_moment_for_the_rest() {
        let (mut output, now) = coalescer();
        output.push(OutputStream::Stdout, b"hello", now);
        assert_eq!(output.due(now), Some(now + LINE_LINGER));
        output.push(OutputStream::Stdout, b"\n", now);
        assert_eq!(output.due(now), Some(now));
    }

    #[test]
    fn lines_in_quick_succession_are_put_together() {
        let (mut output, now) = coalescer();
        output.push(OutputStream::Stdout, b"1\n", now);
        output.pop(now).unwrap();
        output.push(OutputStream::Stdout, b"2\n", now);
        output.push(OutputStream::Stdout, b"3\n", now);
        assert_eq!(output.due(now), Some(now + WINDOW));
        let chunk = output.pop(now + WINDOW).unwrap();
        assert_eq!((chunk.offset, &chunk.data[..]), (2, &b"2\n3\n"[..]));
    }

    #[test]
    fn a_full_chunk_is_due_at_once_and_stops_the_reading() {
        let (mut output, now) = coalescer();
        output.push(OutputStream::Stdout, b"1\n", now);
        output.pop(now).unwrap();
        output.push(OutputStream::Stdout, &[b'x'; 1024], now);
        assert_eq!((output.room(), output.due(now)), (0, Some(now)));
    }

    #[test]
    fn the_streams_keep_the_order_in_which_they_were_read_and_go_together() {
        let (mut output, now) = coalescer();
        output.push(OutputStream::Stdout, b"a\n", now);
        output.push(OutputStream::Stderr, b"b\n", now);
        output.push(OutputStream::Stdout, b"c\n", now);
        let mut got = Vec::new();
        while output.due(now) == Some(now) {
            let chunk = output.pop(now).unwrap();
            got.push((chunk.stream, chunk.offset, chunk.data));
        }
        assert_eq!(
            got,
            [
                (OutputStream::Stdout, 0, "a\n".into()),
                (OutputStream::Stderr, 0, "b\n".into()),
                (OutputStream::Stdout, 2, "c\n".into())
            ]
        );
    }

    #[test]
    fn a_script_that_goes_on_switching_gets_few_chunks_and_loses_nothing() {
        let mut output = Coalescer::new(WINDOW, 1024, 1 << 20);
        let now = Instant::now();
        let (mut chunks, mut bytes) = (0, [0; 2]);
        let mut send = |output: &mut Coalescer| {
            while let Some(chunk) = output.pop(now) {
                assert_eq!(chunk.offset, bytes[chunk.stream as usize]);
                bytes[chunk.stream as usize] += chunk.data.len() as u64;
                chunks += 1;
            }
        };
        for turn in 0..100_000 {
            output.push([OutputStream::Stdout, OutputStream::Stderr][turn % 2], b"x", now);
            if output.room() == 0 {
                send(&mut output);
            }
        }
        send(&mut output);
        assert_eq!(bytes, [50_000; 2]);
        assert!(chunks < 2_300, "{chunks}");
        assert!(!output.keeps_order(now) && output.keeps_order(now + Duration::from_millis(10)));
    }

    #[test]
    fn many_switches_between_the_streams_stop_the_reading() {
        let (mut output, now) = coalescer();
        for turn in 0..MOST_PIECES {
            assert_ne!(output.room(), 0);
            output.push([OutputStream::Stdout, OutputStream::Stderr][turn % 2], b"x", now);
        }
        assert_eq!((output.room(), output.due(now)), (0, Some(now)));
    }

    #[test]
    fn the_limit_counts_both_streams_and_cuts_exactly() {
        let mut output = Coalescer::new(WINDOW, 1024, 10);
        let now = Instant::now();
        assert!(output.push(OutputStream::Stdout, b"1234567", now));
        assert!(output.push(OutputStream::Stderr, b"123", now));
        assert!(!output.push(OutputStream::Stderr, b"4", now));
        assert_eq!((output.count(OutputStream::Stdout), output.count(OutputStream::Stderr)), (7, 3));
    }
}
