//! `qconv imatrix FILE... [-o OUT]`

use super::Run;
use super::calibrate::{is_legacy, save};
use crate::calibrate::{self, TensorStatistics, statistics};
use crate::outln;
use crate::output;
use crate::report::{self, Table};
use crate::ui::Ui;
use anyhow::{Context as _, Result};
use clap::Args;
use qconv_formats::imatrix::Imatrix as Matrix;
use std::path::{Path, PathBuf};

/// Tokens of a chunk where nobody tells: llama-imatrix's default.
const CHUNK: u32 = 512;

/// Arguments of `qconv imatrix`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  qconv imatrix imatrix.gguf                        # statistics, tensor by tensor
  qconv imatrix code.gguf prose.gguf -o both.gguf   # sums and counts of several texts, added up
  qconv imatrix imatrix.dat -o imatrix.gguf --chunk-size 512
  qconv imatrix imatrix.gguf --json | jq '.tensors[] | select(.zero_columns > 0)'

Importance is the mean squared input of a column. The table is llama-imatrix's --show-statistics: sum, least, largest, mean and
standard deviation of a tensor's importances; the share of columns above 1e-5; their entropy in bits and in percent of the
largest possible; ZD, the share of columns more than a standard deviation above the mean; and the cosine to the same tensor of
the layer before. Several files are added up before. Shares are fractions in JSON.

A name that ends in .dat gets the legacy form, any other GGUF. Legacy files do not tell how many tokens a chunk had.")]
pub struct Imatrix {
    /// Importance matrices of one model, in either form
    #[arg(required = true)]
    files: Vec<PathBuf>,

    /// Write their sum instead of showing it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Tokens of a chunk in legacy files [default: 512, with a warning]
    #[arg(long, value_name = "N")]
    chunk_size: Option<u32>,

    /// Replace an existing file
    #[arg(short, long)]
    force: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Imatrix {
    fn run(self, ui: &Ui) -> Result<()> {
        let matrix = self.sum(ui)?;
        if let Some(path) = &self.output {
            let inputs: Vec<&Path> = self.files.iter().map(PathBuf::as_path).collect();
            output::protect(path, &inputs)?;
            save(&matrix, path, self.force, ui)?;
        } else {
            ui.refuse_warnings()?;
        }
        if self.json {
            return report::print_json(&serde_json::json!({
                "files": self.files, "output": self.output, "datasets": matrix.datasets, "entries": matrix.entries.len(),
                "chunk_count": matrix.chunk_count, "chunk_size": (!matrix.is_legacy()).then_some(matrix.chunk_size),
                "tensors": statistics(&matrix), "warnings": ui.warnings(),
            }));
        }
        let size = if matrix.is_legacy() { String::new() } else { format!(" of {} tokens", matrix.chunk_size) };
        let about = format!("{} entries from {} chunks{size}", matrix.entries.len(), matrix.chunk_count);
        match &self.output {
            Some(path) => outln!("{}: {about} of {} files", path.display(), self.files.len()),
            None => {
                table(&statistics(&matrix)).print();
                outln!("\n{about}; texts: {}", matrix.datasets.join(", "));
            }
        }
        Ok(())
    }
}

impl Imatrix {
    /// All files together.
    fn sum(&self, ui: &Ui) -> Result<Matrix> {
        let mut all = Vec::new();
        for path in &self.files {
            all.push((path, calibrate::open(path, ui)?));
        }
        // Nothing has to be counted in tokens where one file is only shown, or stays in its form.
        let to_legacy = self.output.as_deref().is_none_or(is_legacy);
        if all.len() > 1 || !to_legacy {
            let told = all.iter().map(|(_, m)| m.chunk_size).find(|n| *n > 0);
            for (path, matrix) in &mut all {
                if matrix.is_legacy() && self.chunk_size.is_none() {
                    let size = told.unwrap_or(CHUNK);
                    ui.warn(format!(
                        "{}: the legacy form does not tell the tokens of a chunk; {size} are assumed (--chunk-size)",
                        path.display()
                    ));
                }
                matrix
                    .count_tokens(self.chunk_size.or(told).unwrap_or(CHUNK))
                    .with_context(|| path.display().to_string())?;
            }
        }
        let mut files = all.into_iter();
        let Some((first, mut sum)) = files.next() else { unreachable!("an argument is required") };
        for (path, matrix) in files {
            let (more, fewer) = (missing(&sum, &matrix), missing(&matrix, &sum));
            if let Some(name) = more.first().or(fewer.first()) {
                let n = more.len() + fewer.len();
                ui.warn(format!("{} and {}: {n} entries are not in both: {name} ...", first.display(), path.display()));
            }
            if matrix.chunk_size != sum.chunk_size {
                let (a, b) = (sum.chunk_size, matrix.chunk_size);
                ui.warn(format!(
                    "{}: its chunks have {b} tokens, the first file's {a}; chunks are counted in those",
                    path.display()
                ));
            }
            sum.add(&matrix).with_context(|| path.display().to_string())?;
        }
        Ok(sum)
    }
}

/// Names of `b` that `a` lacks.
fn missing(a: &Matrix, b: &Matrix) -> Vec<String> {
    b.entries.keys().filter(|name| !a.entries.contains_key(*name)).cloned().collect()
}

fn table(all: &[TensorStatistics]) -> Table {
    let mut table = Table::new(&[
        "tensor",
        "columns",
        "inputs",
        "sum",
        "min",
        "max",
        "mean",
        "std",
        "active",
        "entropy",
        "of max",
        "ZD",
        "cosine",
        "zero",
        "unvisited",
    ]);
    let percent = |x: f64| format!("{:.2}%", 100.0 * x);
    for s in all {
        table.row([
            s.tensor.clone(),
            s.columns.to_string(),
            s.inputs.to_string(),
            format!("{:.2}", s.sum),
            format!("{:.4}", s.min),
            format!("{:.4}", s.max),
            format!("{:.4}", s.mean),
            format!("{:.4}", s.std),
            percent(s.active),
            format!("{:.4}", s.entropy),
            percent(s.entropy_share),
            percent(s.zd),
            s.cosine.map_or("-".into(), |c| format!("{c:.4}")),
            s.zero_columns.to_string(),
            if s.matrices > 1 { format!("{} of {}", s.unvisited, s.matrices) } else { "-".into() },
        ]);
    }
    table
}
