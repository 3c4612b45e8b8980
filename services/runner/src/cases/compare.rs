//! Compares what a program writes with what is expected, while it is written: a pure state machine.
//!
//! Neither output is held in memory: both are reduced to the bytes that count, the expected one at the start, the
//! program's as it comes.

use std::mem;

use bytes::Bytes;
use runmesh_proto::event::{OutputComparison, OutputDifference};

/// How much of a place that differs is shown, in bytes.
const EXCERPT: usize = 128;
/// How much of it may come before the first byte that differs.
const BEFORE: usize = 32;

/// A comparison under way.
#[derive(Debug)]
pub(crate) struct Comparison {
    mode: OutputComparison,
    /// What counts of the expected output.
    expected: Vec<u8>,
    reduction: Reduction,
    place: Place,
}

impl Comparison {
    pub(crate) fn new(mode: OutputComparison, expected: &[u8]) -> Self {
        let mut reduced = Vec::with_capacity(expected.len());
        Reduction::new(mode, expected.len()).feed(expected, &mut |byte, _| reduced.push(byte));
        let reduction = Reduction::new(mode, reduced.len());
        Self { mode, expected: reduced, reduction, place: Place::default() }
    }

    /// Takes the next bytes that the program wrote.
    pub(crate) fn take(&mut self, data: &[u8]) {
        let (place, expected, mode) = (&mut self.place, self.expected.as_slice(), self.mode);
        if !place.is_known() {
            self.reduction.feed(data, &mut |byte, line| place.take(byte, line, expected, mode));
        }
    }

    /// Where the outputs differ, now that the program has ended. `None`: nowhere.
    pub(crate) fn finish(self) -> Option<OutputDifference> {
        self.place.finish(&self.expected, self.mode)
    }
}

/// Space, tab, line feed, vertical tab, form feed and carriage return.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0d)
}

/// Leaves out of an output what does not count.
#[derive(Debug)]
struct Reduction {
    mode: OutputComparison,
    /// The line that is being read, from 1.
    line: i64,
    /// The line of the last byte that counted.
    counted: i64,
    /// Whether whitespace came since that byte.
    separated: bool,
    /// Line feeds that count if something follows.
    line_feeds: i64,
    /// Whitespace that counts if something follows in the line. More of it than `most` is as good as `most`.
    spaces: Vec<u8>,
    most: usize,
}

impl Reduction {
    /// `longest`: no more whitespace in a row than this can be as expected.
    fn new(mode: OutputComparison, longest: usize) -> Self {
        Self {
            mode,
            line: 1,
            counted: 0,
            separated: false,
            line_feeds: 0,
            spaces: Vec::new(),
            most: longest.saturating_add(1),
        }
    }

    /// Hands on the bytes that count, each with its line.
    fn feed(&mut self, data: &[u8], emit: &mut impl FnMut(u8, i64)) {
        for &byte in data {
            match self.mode {
                OutputComparison::Exact => emit(byte, self.line),
                OutputComparison::Tokens => self.token(byte, emit),
                OutputComparison::Unspecified | OutputComparison::TrailingWhitespace => self.trailing(byte, emit),
            }
            self.line += i64::from(byte == b'\n');
        }
    }

    fn trailing(&mut self, byte: u8, emit: &mut impl FnMut(u8, i64)) {
        if byte == b'\n' {
            self.spaces.clear();
            self.line_feeds += 1;
        } else if is_space(byte) {
            if self.spaces.len() < self.most {
                self.spaces.push(byte);
            }
        } else {
            for line in self.line - self.line_feeds..self.line {
                emit(b'\n', line);
            }
            self.line_feeds = 0;
            for space in self.spaces.drain(..) {
                emit(space, self.line);
            }
            emit(byte, self.line);
        }
    }

    fn token(&mut self, byte: u8, emit: &mut impl FnMut(u8, i64)) {
        if is_space(byte) {
            self.separated = true;
            return;
        }
        if mem::take(&mut self.separated) && self.counted > 0 {
            emit(b' ', self.counted);
        }
        self.counted = self.line;
        emit(byte, self.line);
    }
}

/// How far the outputs agree, and what is seen where they do not.
#[derive(Debug, Default)]
struct Place {
    /// The number of bytes that agree.
    agree: usize,
    /// The last of those, as far as they belong to the line or word that is being read.
    before: Vec<u8>,
    /// The line of the last byte that agrees.
    line: i64,
    found: Option<Found>,
}

#[derive(Debug)]
struct Found {
    difference: OutputDifference,
    /// Whether all that is expected came, and then more.
    more: bool,
    /// Whether `difference` has all of the line or word.
    whole: bool,
}

impl Place {
    /// Whether nothing that follows can change the answer.
    fn is_known(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.whole)
    }

    fn take(&mut self, byte: u8, line: i64, expected: &[u8], mode: OutputComparison) {
        match &mut self.found {
            Some(found) if found.whole => {}
            Some(found) => found.add(byte, line, mode),
            None if expected.get(self.agree) == Some(&byte) => {
                self.agree += 1;
                self.line = line;
                if ends(byte, mode) {
                    self.before.clear();
                } else {
                    if self.before.len() == BEFORE {
                        self.before.remove(0);
                    }
                    self.before.push(byte);
                }
            }
            None => self.found = Some(self.differs(byte, line, expected, mode)),
        }
    }

    fn differs(&mut self, byte: u8, line: i64, expected: &[u8], mode: OutputComparison) -> Found {
        if separates(byte, mode) && self.agree == expected.len() {
            // What comes next is shown, without what it follows.
            return Found { difference: OutputDifference::default(), more: true, whole: false };
        }
        let start = self.agree - self.before.len();
        let difference = OutputDifference {
            line,
            expected: excerpt(&expected[start..], mode),
            actual: mem::take(&mut self.before).into(),
        };
        let mut found = Found { difference, more: false, whole: false };
        found.add(byte, line, mode);
        found
    }

    fn finish(self, expected: &[u8], mode: OutputComparison) -> Option<OutputDifference> {
        if let Some(found) = self.found {
            return Some(found.difference);
        }
        let (&next, after) = expected.get(self.agree..)?.split_first()?;
        if separates(next, mode) {
            // It stopped between two lines or words: the next one is missing.
            let line = if next == b'\n' { self.line + 1 } else { self.line };
            return Some(OutputDifference { line, expected: excerpt(after, mode), actual: Bytes::new() });
        }
        let start = self.agree - self.before.len();
        let line = if self.before.is_empty() && mode != OutputComparison::Tokens && self.agree > 0 {
            self.line + 1
        } else {
            self.line.max(1)
        };
        Some(OutputDifference { line, expected: excerpt(&expected[start..], mode), actual: self.before.into() })
    }
}

impl Found {
    fn add(&mut self, byte: u8, line: i64, mode: OutputComparison) {
        let begins = self.more && self.difference.actual.is_empty();
        if separates(byte, mode) {
            self.whole = !begins;
            return;
        }
        if begins {
            self.difference.line = line;
        }
        let mut actual = Vec::from(mem::take(&mut self.difference.actual));
        actual.push(byte);
        self.whole = actual.len() >= EXCERPT || ends(byte, mode);
        self.difference.actual = actual.into();
    }
}

/// Whether a byte ends the line or word that it is in.
fn ends(byte: u8, mode: OutputComparison) -> bool {
    byte == if mode == OutputComparison::Tokens { b' ' } else { b'\n' }
}

/// Whether a byte is between two lines or words. Byte by byte, a line feed belongs to its line.
fn separates(byte: u8, mode: OutputComparison) -> bool {
    mode != OutputComparison::Exact && ends(byte, mode)
}

/// The line or word at the start, as much of it as is shown.
fn excerpt(bytes: &[u8], mode: OutputComparison) -> Bytes {
    let end = bytes.iter().position(|byte| ends(*byte, mode)).unwrap_or(bytes.len());
    let end = if mode == OutputComparison::Exact { (end + 1).min(bytes.len()) } else { end };
    Bytes::copy_from_slice(&bytes[..end.min(EXCERPT)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use OutputComparison::{Exact, Tokens, TrailingWhitespace};

    /// The difference, which must not depend on the pieces that the output comes in.
    fn compare(mode: OutputComparison, expected: &str, actual: &str) -> Option<(i64, String, String)> {
        let difference = |size: usize| {
            let mut comparison = Comparison::new(mode, expected.as_bytes());
            actual.as_bytes().chunks(size).for_each(|piece| comparison.take(piece));
            comparison.finish()
        };
        let whole = difference(actual.len().max(1));
        for size in 1..4 {
            assert_eq!(difference(size), whole, "{expected:?} {actual:?} in pieces of {size}");
        }
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        whole.map(|found| (found.line, text(found.expected), text(found.actual)))
    }

    fn found(line: i64, expected: &str, actual: &str) -> Option<(i64, String, String)> {
        Some((line, expected.to_owned(), actual.to_owned()))
    }

    #[test]
    fn each_mode_ignores_what_it_says() {
        for (mode, expected, actual) in [
            (Exact, "", ""),
            (Exact, "a b\n", "a b\n"),
            (TrailingWhitespace, "a b\nc", "a b \t\r\nc\n\n \n"),
            (TrailingWhitespace, "a\n\nb\n", "a\n \nb"),
            (TrailingWhitespace, "  a", "  a"),
            (TrailingWhitespace, "", "\n \n"),
            (Tokens, "1 2 3", "\n1\t2\r\n3 "),
            (Tokens, " \n", ""),
        ] {
            assert_eq!(compare(mode, expected, actual), None, "{mode:?} {expected:?} {actual:?}");
        }
    }

    #[test]
    fn each_mode_shows_the_first_place_that_differs() {
        for (mode, expected, actual, difference) in [
            (Exact, "a\n", "a", found(1, "a\n", "a")),
            (Exact, "a", "a\n", found(1, "a", "a\n")),
            (Exact, "a\nb", "a\n", found(2, "b", "")),
            (Exact, "a\nb\n", "a\nc\nd", found(2, "b\n", "c\n")),
            (Exact, "", "x", found(1, "", "x")),
            (Exact, "x", "", found(1, "x", "")),
            (TrailingWhitespace, "a\nb", "a", found(2, "b", "")),
            (TrailingWhitespace, "a", "a\n\n\nb", found(4, "", "b")),
            (TrailingWhitespace, "a", "a\nbc\nd", found(2, "", "bc")),
            (TrailingWhitespace, "abx\nc", "ab\nc", found(1, "abx", "ab")),
            (TrailingWhitespace, "ab\nc", "abx\nc", found(1, "ab", "abx")),
            (TrailingWhitespace, "a b", "a  b", found(1, "a b", "a  b")),
            (TrailingWhitespace, " a", "a", found(1, " a", "a")),
            (TrailingWhitespace, "a", "", found(1, "a", "")),
            (Tokens, "1 2 3", "1\n2\n4\n", found(3, "3", "4")),
            (Tokens, "1 23", "1\n2 3", found(2, "23", "2")),
            (Tokens, "1 2", "1 2\n3 4", found(2, "", "3")),
            (Tokens, "1 2 3", "1 2\n", found(1, "3", "")),
            (Tokens, "12", "1 2", found(1, "12", "1")),
        ] {
            assert_eq!(compare(mode, expected, actual), difference, "{mode:?} {expected:?} {actual:?}");
        }
    }

    #[test]
    fn long_lines_are_shown_around_the_difference() {
        let line = |end: &str| format!("{}{end}{}", "x".repeat(1_000), "y".repeat(1_000));
        let (number, expected, actual) = compare(Exact, &line("1"), &line("2")).unwrap();
        assert_eq!((number, expected.len(), actual.len()), (1, EXCERPT, EXCERPT));
        assert!(expected.starts_with(&format!("{}1y", "x".repeat(BEFORE))), "{expected}");
        assert!(actual.starts_with(&format!("{}2y", "x".repeat(BEFORE))), "{actual}");
    }

    #[test]
    fn much_whitespace_is_not_kept() {
        let mut comparison = Comparison::new(TrailingWhitespace, b"a");
        for _ in 0..1_000 {
            comparison.take(&[b' '; 1_000]);
        }
        assert!(comparison.reduction.spaces.len() <= 2);
        comparison.take(b"a");
        assert!(comparison.finish().is_some());
    }

    /// The rule of each mode, said otherwise.
    fn equal(mode: OutputComparison, one: &str, other: &str) -> bool {
        let words = |text: &str| {
            text.split(|c: char| c.is_ascii() && is_space(c as u8))
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let lines = |text: &str| {
            let mut lines: Vec<String> = text
                .split('\n')
                .map(|line| line.trim_end_matches(|c: char| c.is_ascii() && is_space(c as u8)).to_owned())
                .collect();
            while lines.last().is_some_and(String::is_empty) {
                lines.pop();
            }
            lines
        };
        match mode {
            Exact => one == other,
            Tokens => words(one) == words(other),
            _ => lines(one) == lines(other),
        }
    }

    #[test]
    fn all_short_outputs_are_compared_as_the_modes_say() {
        let mut texts = vec![String::new()];
        for length in 0..5_usize {
            let longer: Vec<String> = texts
                .iter()
                .filter(|text| text.len() == length)
                .flat_map(|text| ["a", "b", " ", "\n"].map(|end| format!("{text}{end}")))
                .collect();
            texts.extend(longer);
        }
        for mode in [Exact, TrailingWhitespace, Tokens] {
            for one in texts.iter().filter(|text| text.len() <= 4) {
                for other in &texts {
                    let mut comparison = Comparison::new(mode, one.as_bytes());
                    comparison.take(other.as_bytes());
                    let same = comparison.finish().is_none();
                    assert_eq!(same, equal(mode, one, other), "{mode:?} {one:?} {other:?}");
                }
            }
        }
    }
}
