//! Rows in columns, for people. Pure.

use crate::ink::Ink;

/// A row of these cells.
#[must_use]
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// Lays rows out in columns, the first row being the heads. The last column is as wide as it likes; no line ends with
/// spaces.
#[must_use]
pub fn table(ink: Ink, rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let filled = row.iter().rposition(|cell| !cell.trim_end().is_empty());
        let shown = &row[..filled.map_or(0, |last| last + 1)];
        let mut gap = 0;
        for (cell, width) in shown.iter().zip(&widths) {
            text.extend(std::iter::repeat_n(' ', gap));
            let cell = cell.trim_end();
            text.push_str(&if number == 0 { ink.head(cell) } else { ink.cell(cell) });
            gap = width - cell.chars().count() + 2;
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows = [row(["A", "B", "C"]), row(["ü", "long", ""]), row(["aaa", "b", "c c "])];
        assert_eq!(table(Ink::PLAIN, &rows), "A    B     C\nü    long\naaa  b     c c\n");
        assert_eq!(table(Ink::PLAIN, &[]), "");
        let uneven = [row(["A"]).to_vec(), row(["x", "y"]).to_vec()];
        assert_eq!(table(Ink::PLAIN, &uneven), "A\nx  y\n");
    }
}
