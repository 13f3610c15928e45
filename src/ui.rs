//! What a person sees: notes, warnings, progress. Reports go to standard output, everything else to standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::cell::RefCell;
use std::io::{IsTerminal, Write};

/// How to talk, and what was said.
#[derive(Debug, Default)]
pub struct Ui {
    quiet: bool,
    strict: bool,
    muted: bool,
    warnings: RefCell<Vec<String>>,
    prefix: RefCell<String>,
    noted: RefCell<Vec<String>>,
}

/// Writes to standard error. That nobody listens any more (`2>&1 | head`) is no reason to stop.
pub fn tell(text: impl AsRef<str>) {
    let _ = std::io::stderr().lock().write_all(text.as_ref().as_bytes());
}

impl Ui {
    /// `quiet`: only warnings and results. `strict`: warnings make [`Ui::refuse_warnings`] fail.
    pub fn new(quiet: bool, strict: bool) -> Self {
        Ui { quiet, strict, ..Ui::default() }
    }

    /// Says nothing at all: for attempts, after which the same work is done aloud.
    pub fn muted() -> Self {
        Ui { quiet: true, muted: true, ..Ui::default() }
    }

    /// A line of progress, not shown when quiet.
    pub fn note(&self, line: impl AsRef<str>) {
        if !self.quiet {
            tell(format!("{}{}\n", self.prefix(), line.as_ref()));
        }
    }

    /// A note that is not repeated.
    pub fn note_once(&self, line: impl Into<String>) {
        let line = line.into();
        if !self.noted.borrow().contains(&line) {
            self.note(&line);
            self.noted.borrow_mut().push(line);
        }
    }

    /// Something that a careful user wants to know: shown always, counted, and refused under `--strict`.
    pub fn warn(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.muted {
            tell(format!("{}warning: {sentence}\n", self.prefix()));
        }
        self.warnings.borrow_mut().push(sentence);
    }

    /// What every line begins with from now on where it goes to no terminal: jobs that run side by side write into one log.
    pub fn set_prefix(&self, name: &str) {
        if !std::io::stderr().is_terminal() {
            *self.prefix.borrow_mut() = format!("{name}: ");
        }
    }

    /// What every line begins with from now on, wherever it goes: which of several things it is about. Nothing where that is empty.
    pub fn set_topic(&self, topic: &str) {
        *self.prefix.borrow_mut() = if topic.is_empty() { String::new() } else { format!("{topic}: ") };
    }

    /// What every line on standard error begins with.
    pub fn prefix(&self) -> String {
        self.prefix.borrow().clone()
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    /// Under `--strict`, an error if anything was warned about. To be called before an output appears.
    pub fn refuse_warnings(&self) -> anyhow::Result<()> {
        let n = self.warnings.borrow().len();
        if self.strict && n > 0 {
            anyhow::bail!("--strict: {n} warning{} above", if n == 1 { "" } else { "s" });
        }
        Ok(())
    }

    /// A bar over `total` bytes on a terminal; nothing otherwise.
    pub fn bytes_bar(&self, total: u64) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style =
            ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}");
        let bar = ProgressBar::new(total);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar
    }

    /// A bar over `total` steps on a terminal; nothing otherwise.
    pub fn steps_bar(&self, total: u64) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {eta} left  {msg}");
        let bar = ProgressBar::new(total);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar
    }
}

/// `12.3 MB`, `1.24 GB`: decimal units, three significant digits.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A size as people write it: `700MB`, `1.5 GB`, `64MiB`, `4096`. The error is a phrase.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 13] = [
        ("", 1.0),
        ("B", 1.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("K", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("KIB", 1024.0),
        ("MIB", 1048576.0),
        ("GIB", 1073741824.0),
    ];
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = text[end..].trim().to_uppercase();
    let unit = UNITS.iter().find(|u| u.0 == unit).map(|u| u.1);
    match (text[..end].parse::<f64>(), unit) {
        (Ok(n), Some(unit)) if n > 0.0 && n * unit < 1e18 => Ok((n * unit) as u64),
        _ => Err(format!("{text} is no size; write 700MB, 1.5GB, 64MiB or a number of bytes")),
    }
}

/// `1.24 B`, `15.2 M`: a count of weights.
pub fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// `0.42 s`, `3 min 12 s`.
pub fn seconds(s: f64) -> String {
    if s < 10.0 {
        format!("{s:.2} s")
    } else if s < 120.0 {
        format!("{s:.1} s")
    } else {
        format!("{} min {:.0} s", (s / 60.0).floor(), s % 60.0)
    }
}

/// Sets the number of threads of the shared pool (conversion, verification); before its first use.
pub fn use_threads(threads: Option<std::num::NonZero<usize>>) -> anyhow::Result<()> {
    if let Some(n) = threads {
        rayon::ThreadPoolBuilder::new().num_threads(n.get()).build_global()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [
            ("700MB", 700_000_000),
            ("1.5 GB", 1_500_000_000),
            ("64MiB", 64 << 20),
            ("2G", 2_000_000_000),
            ("4096", 4096),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for text in ["", "MB", "0", "-1", "7 apples", "1e999", "1.2.3MB", "999999999TB"] {
            assert!(parse_bytes(text).unwrap_err().contains("700MB"), "{text}");
        }
    }
}
