//! Tables for people.

use super::print;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    to_the_right: bool,
}

/// A column of words.
pub(super) const fn left(name: &'static str) -> Column {
    Column { name, to_the_right: false }
}

/// A column of numbers.
pub(super) const fn right(name: &'static str) -> Column {
    Column { name, to_the_right: true }
}

/// A table whose rows come in parts. A column is as wide as the widest cell so far; the last one as each cell is.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    has_head: bool,
}

impl Table {
    /// A table of these columns.
    pub(super) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        let columns: Vec<Column> = columns.into_iter().collect();
        let widths = columns.iter().map(|column| column.name.chars().count()).collect();
        Self { columns, widths, has_head: false }
    }

    /// The lines of more rows, after that of the head if it was not there yet. No rows make no lines.
    pub(super) fn lines(&mut self, rows: Vec<Vec<String>>) -> Vec<String> {
        if rows.is_empty() {
            return Vec::new();
        }
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|row| row.iter().map(|cell| print::plain(cell)).collect()).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let head = (!std::mem::replace(&mut self.has_head, true))
            .then(|| self.columns.iter().map(|column| column.name.to_owned()).collect::<Vec<_>>());
        head.iter().chain(&rows).map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String]) -> String {
        let cells = row.iter().zip(self.columns.iter().zip(&self.widths)).enumerate();
        let cells = cells.map(|(index, (cell, (column, width)))| match column.to_the_right {
            false if index + 1 == row.len() => cell.clone(),
            false => format!("{cell:<width$}"),
            true => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_also_over_parts() {
        let row = |cells: [&str; 3]| cells.map(ToOwned::to_owned).to_vec();
        let mut table = Table::new([left("NAME"), right("COUNT"), left("ERROR")]);
        assert_eq!(table.lines(Vec::new()), [""; 0]);
        let lines = table.lines(vec![row(["a", "1", ""]), row(["longer", "23", "it\nbroke\x1b[31m"])]);
        assert_eq!(lines, ["NAME    COUNT  ERROR", "a           1", "longer     23  it broke\u{fffd}[31m"]);
        assert_eq!(table.lines(vec![row(["b", "4", "x"])]), ["b           4  x"]);
    }
}
