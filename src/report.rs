//! Tables and machine-readable output, the same way for every command.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, TableStyle, presets};
use std::io::Write;

/// A table that can be printed for people, as Markdown or as CSV.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
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
    /// A table with these column heads.
    pub fn new(head: &[&str]) -> Self {
        Table { head: head.iter().map(|s| (*s).to_owned()).collect(), rows: Vec::new() }
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
        // A closed pipe (`| head`) is no reason to panic.
        let _ = writeln!(std::io::stdout(), "{}", self.to_string_as(style));
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
            let numeric = self.rows.iter().any(|r| is_number(&r[i]))
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

fn is_number(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit() || "+-±".contains(c)) && cell.chars().any(|c| c.is_ascii_digit())
}

/// Prints a JSON value for programs, one object over several lines.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
