//! Options that say which importance matrix is used for what.

use crate::convert::Importance;
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::imatrix::Imatrix;
use std::path::PathBuf;

/// Arguments around `--imatrix`.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct ImportanceArgs {
    /// Importance matrix of `qconv calibrate` or llama-imatrix: errors weigh more in columns that see large activations
    #[arg(long, value_name = "FILE", help_heading = "Importance")]
    pub imatrix: Option<PathBuf>,

    /// Use the matrix only for tensors whose name contains NAME (repeatable)
    #[arg(long, value_name = "NAME", requires = "imatrix", help_heading = "Importance")]
    include_weights: Vec<String>,

    /// Do not use the matrix for tensors whose name contains NAME (repeatable)
    #[arg(long, value_name = "NAME", requires = "imatrix", conflicts_with = "include_weights", help_heading = "Importance")]
    exclude_weights: Vec<String>,
}

impl ImportanceArgs {
    /// These options as arguments.
    pub fn recipe(&self) -> Vec<String> {
        let mut args = Vec::new();
        args.extend(self.imatrix.iter().map(|file| format!("--imatrix={}", file.display())));
        args.extend(self.include_weights.iter().map(|name| format!("--include-weights={name}")));
        args.extend(self.exclude_weights.iter().map(|name| format!("--exclude-weights={name}")));
        args
    }

    /// Reads the matrix, if one is asked for. `None` too if the other options leave nothing of it.
    pub fn open(&self, ui: &Ui) -> Result<Option<Importance>> {
        let Some(file) = &self.imatrix else { return Ok(None) };
        let matrix = Imatrix::open(file)?;
        if let Some(first) = matrix.ignored.first() {
            let n = matrix.ignored.len();
            ui.warn(format!("{}: {n} of its tensors are neither sums nor counts and are not used: {first} ...", file.display()));
        }
        let importance = Importance::new(&matrix, file, &self.include_weights, &self.exclude_weights)?;
        if importance.is_empty() {
            ui.warn(format!("{}: --exclude-weights leaves none of its entries; there is no importance", file.display()));
            return Ok(None);
        }
        Ok(Some(importance))
    }
}
