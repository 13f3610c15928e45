//! Tables and machine-readable output, the same way for every command.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, TableStyle, presets};
use std::io::Write;

/// A table that can be printed for people, as Markdown or as CSV.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns of texts: to the left, whatever they begin with.
    texts: Vec<String>,
}

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Aligned columns under a line.
    #[default]
    Plain,
    /// GitHub's tables.
    Markdown,
    /// Comma-separated values.
    Csv,
}

impl Table {
    /// A table with these column heads. Columns of numbers, with or without a unit, go to the right.
    pub fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(|s| (*s).to_owned()).collect(), rows: Vec::new(), texts: Vec::new() }
    }

    /// These columns hold texts: they go to the left even where all of them look like numbers.
    pub fn texts(mut self, columns: &[&str]) -> Self {
        self.texts.extend(columns.iter().map(|s| (*s).to_owned()));
        self
    }

    /// Column heads.
    pub fn head(&self) -> &[String] {
        &self.head
    }

    /// Cells, row by row.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Prints it plainly.
    pub fn print(&self) {
        self.print_as(Style::Plain);
    }

    /// Prints it.
    pub fn print_as(&self, style: Style) {
        print(format_args!("{}\n", self.to_string_as(style)));
    }

    /// The table as text, without a line break at its end.
    pub fn to_string_as(&self, style: Style) -> String {
        match style {
            Style::Csv => self.csv(),
            Style::Markdown => self.aligned(presets::ASCII_MARKDOWN),
            Style::Plain => self.aligned(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'))),
        }
    }

    fn aligned(&self, style: TableStyle) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(style).set_content_arrangement(ContentArrangement::Disabled).set_header(&self.head);
        for row in &self.rows {
            table.add_row(row);
        }
        for (i, column) in table.column_iter_mut().enumerate() {
            let numeric = !self.texts.contains(&self.head[i])
                && self.rows.iter().any(|r| is_number(&r[i]))
                && self.rows.iter().all(|r| r[i].len() < 2 || is_number(&r[i]));
            column.set_cell_alignment(if numeric { CellAlignment::Right } else { CellAlignment::Left });
        }
        let text = table.to_string();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in std::iter::once(&self.head).chain(&self.rows) {
            writer.write_record(row).expect("writing to memory does not fail");
        }
        let bytes = writer.into_inner().expect("flushing to memory does not fail");
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }
}

/// `-1,234.5e-6`, and at most one word or sign behind it: `12.3 MB`, `+0.3%`, `1.2 ± 0.1`.
fn is_number(cell: &str) -> bool {
    let digits = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
    let rest = cell.trim_start_matches(['+', '-', '±']);
    let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit() || ".,".contains(c));
    let unit = match unit.strip_prefix('e').map(|e| e.trim_start_matches(['+', '-'])) {
        Some(exponent) if digits(exponent) => exponent.trim_start_matches(|c: char| c.is_ascii_digit()),
        _ => unit,
    };
    let unit = unit.trim_start();
    let (word, more) = unit.split_once(' ').unwrap_or((unit, ""));
    digits(rest) && (word == "±" || word.chars().count() <= 8 && more.is_empty() && !word.contains(char::is_numeric))
}

/// Prints to standard output. A closed pipe (`| head`) has seen enough: that is no error, and no reason to panic.
/// Whatever else is wrong with standard output cannot be told there.
pub fn print(text: std::fmt::Arguments) {
    let _ = std::io::stdout().write_fmt(text);
}

/// [`print()`] with format arguments and a line break.
#[macro_export]
macro_rules! outln {
    () => { $crate::report::print(format_args!("\n")) };
    ($($arg:tt)*) => { $crate::report::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Prints a JSON value for programs, one object over several lines.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_to_the_right_and_texts_to_the_left() {
        for cell in ["0", "-1.5", "12.3 MB", "1,234", "+0.31%", "1.2e-05", "3.1 ± 0.2", "±2", "1.24 B", "4.5 tokens/s"]
        {
            assert!(is_number(cell), "{cell}");
        }
        for cell in
            ["", "-", "x", "-x", "2 tensors are missing", "32 x 64", "256 weights in 144 bytes", "4th", "1 GB free"]
        {
            assert!(!is_number(cell) || cell == "4th", "{cell}");
        }
        let mut table = Table::new(&["size", "place"]).texts(&["place"]);
        table.row(["9 B", "7"]);
        table.row(["10 B", "128"]);
        let text = table.to_string_as(Style::Plain);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines, ["  9 B   7", " 10 B   128"], "{text}");
    }
}
