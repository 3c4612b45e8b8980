//! Where a client is in the stream of a log.

use std::{fmt, str::FromStr};

/// A place in the stream of a log. As text: the sequence of the last event seen, with `.end` once the end was seen. Empty
/// stands for the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The sequence of the last event seen. 0: none was.
    pub sequence: u64,
    /// Whether the end was seen.
    pub ended: bool,
}

/// A text that is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cursor")]
pub struct InvalidCursor(String);

impl Cursor {
    /// Whether it is before everything.
    pub fn is_start(&self) -> bool {
        self.sequence == 0
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        if text.is_empty() {
            return Ok(Self { sequence: 0, ended: false });
        }
        let (number, ended) = match text.strip_suffix(".end") {
            Some(number) => (number, true),
            None => (text, false),
        };
        // One spelling only.
        let is_canonical = number.bytes().all(|b| b.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
        let sequence = number.parse().ok().filter(|_| is_canonical);
        sequence.map(|sequence| Self { sequence, ended }).ok_or_else(|| InvalidCursor(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.sequence, if self.ended { ".end" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_have_one_spelling() {
        assert_eq!("".parse(), Ok(Cursor { sequence: 0, ended: false }));
        assert_eq!("17".parse(), Ok(Cursor { sequence: 17, ended: false }));
        assert_eq!("17.end".parse(), Ok(Cursor { sequence: 17, ended: true }));
        for bad in ["x", "-1", "+1", "01", ".end", "1.ended", "1 ", "99999999999999999999999"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }
}
