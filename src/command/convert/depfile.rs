//! What an output depends on, for make.

use crate::output;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Writes `OUTPUT: INPUT ...`, and an empty rule for each input, so that make does not stop where one is gone.
pub fn write(path: &Path, outputs: &[PathBuf], inputs: &[PathBuf]) -> Result<()> {
    let list = |paths: &[PathBuf]| paths.iter().map(|p| escaped(p)).collect::<Vec<_>>().join(" \\\n  ");
    let mut text = format!("{}: \\\n  {}\n", list(outputs), list(inputs));
    inputs.iter().for_each(|p| text += &format!("{}:\n", escaped(p)));
    output::write_whole(path, text.as_bytes(), true)
}

/// As make reads names.
fn escaped(path: &Path) -> String {
    let mut out = String::new();
    for c in path.display().to_string().chars() {
        match c {
            '$' => out.push_str("$$"),
            ' ' | '#' | ':' | '%' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}
