//! A list that comes in pages.

use super::print;
use crate::cli::lists::PageArgs;

/// The greatest page that the service makes.
const PAGE: u32 = 1_000;

/// How much of a list was read, and what comes next.
#[derive(Debug)]
pub(super) struct Pages {
    /// How many entries are still wanted. `None`: all.
    left: Option<u32>,
    token: String,
    more: bool,
}

impl Pages {
    pub(super) fn new(args: &PageArgs) -> Self {
        Self { left: (!args.all).then_some(args.limit), token: String::new(), more: true }
    }

    /// The size and the token of the next page to ask for. `None`: there is nothing more, or nothing more is wanted.
    pub(super) fn next(&self) -> Option<(i32, String)> {
        let size = self.left.unwrap_or(PAGE).min(PAGE);
        (self.more && size > 0).then(|| (i32::try_from(size).unwrap_or(i32::MAX), self.token.clone()))
    }

    /// A page has come.
    pub(super) fn took(&mut self, entries: usize, token: String) {
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        self.left = self.left.map(|left| left.saturating_sub(entries));
        self.more = !token.is_empty();
        self.token = token;
    }

    /// Tells a person that there is more.
    pub(super) fn hint(&self) {
        if self.more {
            eprintln!("there are more: --limit COUNT or --all shows them");
        }
    }
}

/// Shows the entries of a page: as lines of JSON, or as those of a table.
pub(super) fn show<M: prost::Message>(
    as_json: bool,
    name: &str,
    entries: &[M],
    table: &mut super::table::Table,
    row: impl Fn(&M) -> Vec<String>,
) -> anyhow::Result<()> {
    if as_json {
        return entries.iter().try_for_each(|entry| print::message(entry, name));
    }
    for line in table.lines(entries.iter().map(row).collect()) {
        print::line(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_asked_for_until_there_is_enough() {
        let mut pages = Pages::new(&PageArgs { limit: 1_050, all: false });
        assert_eq!(pages.next(), Some((1_000, String::new())));
        // A page may be shorter than asked for.
        pages.took(20, "a".to_owned());
        assert_eq!(pages.next(), Some((1_000, "a".to_owned())));
        pages.took(1_000, "b".to_owned());
        assert_eq!(pages.next(), Some((30, "b".to_owned())));
        pages.took(30, "c".to_owned());
        assert_eq!(pages.next(), None);
    }

    #[test]
    fn all_pages_end_with_the_last() {
        let mut pages = Pages::new(&PageArgs { limit: 50, all: true });
        pages.took(1_000, "a".to_owned());
        assert_eq!(pages.next(), Some((1_000, "a".to_owned())));
        pages.took(0, String::new());
        assert_eq!(pages.next(), None);
    }
}
