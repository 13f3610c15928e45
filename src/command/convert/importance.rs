//! Options that say which importance matrix is used for what.

use crate::backend::BackendArgs;
use crate::calibrate::{self, Request};
use crate::convert::Importance;
use crate::model::Model;
use crate::ui::{self, Ui};
use anyhow::Result;
use qconv_formats::imatrix::Imatrix;
use std::path::PathBuf;

/// Arguments around `--imatrix` and `--calibration`.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct ImportanceArgs {
    /// Importance matrix of `qconv calibrate` or llama-imatrix: errors weigh more in columns that see large activations
    #[arg(long, value_name = "FILE", group = "matrix", help_heading = "Importance")]
    pub imatrix: Option<PathBuf>,

    /// Collect the importance matrix from this text first, as `qconv calibrate` would
    #[arg(long, value_name = "TEXT", group = "matrix", help_heading = "Importance")]
    pub calibration: Option<PathBuf>,

    /// Tokens of a chunk of the text [default: 512, or the model's context if that is smaller]
    #[arg(long, value_name = "N", requires = "calibration", help_heading = "Importance")]
    pub calibration_ctx: Option<usize>,

    /// At most N chunks of the text
    #[arg(long, value_name = "N", requires = "calibration", help_heading = "Importance")]
    pub calibration_chunks: Option<usize>,

    /// Use the matrix only for tensors whose name contains NAME (repeatable)
    #[arg(long, value_name = "NAME", requires = "matrix", help_heading = "Importance")]
    include_weights: Vec<String>,

    /// Do not use the matrix for tensors whose name contains NAME (repeatable)
    #[arg(long, value_name = "NAME", requires = "matrix", conflicts_with = "include_weights", help_heading = "Importance")]
    exclude_weights: Vec<String>,
}

impl ImportanceArgs {
    /// These options as arguments.
    pub fn recipe(&self) -> Vec<String> {
        let mut args = Vec::new();
        args.extend(self.imatrix.iter().map(|file| format!("--imatrix={}", file.display())));
        args.extend(self.calibration.iter().map(|file| format!("--calibration={}", file.display())));
        args.extend(self.calibration_ctx.map(|n| format!("--calibration-ctx={n}")));
        args.extend(self.calibration_chunks.map(|n| format!("--calibration-chunks={n}")));
        args.extend(self.include_weights.iter().map(|name| format!("--include-weights={name}")));
        args.extend(self.exclude_weights.iter().map(|name| format!("--exclude-weights={name}")));
        args
    }

    /// What importance comes from: the matrix or the text.
    pub fn data(&self) -> Option<&PathBuf> {
        self.imatrix.as_ref().or(self.calibration.as_ref())
    }

    /// Reads the matrix or collects it, if either is asked for. `None` too if the other options leave nothing of it.
    pub fn open(&self, model: &Model, computing: BackendArgs, ui: &Ui) -> Result<Option<Importance>> {
        let importance = if let Some(text) = &self.calibration {
            let request = Request {
                file: text,
                ctx: self.calibration_ctx,
                chunks: self.calibration_chunks,
                skip: 0,
                output: false,
                parse_special: false,
                computing,
            };
            let found = calibrate::collect(model, &request, ui)?;
            let (chunks, ctx, seconds) = (found.chunks, found.ctx, ui::seconds(found.seconds));
            ui.note(format!("{}: calibrated on {chunks} chunks of {ctx} tokens in {seconds}", text.display()));
            Importance::collected(&found.matrix, text, &self.include_weights, &self.exclude_weights)?
        } else if let Some(file) = &self.imatrix {
            let matrix = Imatrix::open(file)?;
            if let Some(first) = matrix.ignored.first() {
                let n = matrix.ignored.len();
                ui.warn(format!(
                    "{}: {n} of its tensors are neither sums nor counts and are not used: {first} ...",
                    file.display()
                ));
            }
            Importance::new(&matrix, file, &self.include_weights, &self.exclude_weights)?
        } else {
            return Ok(None);
        };
        if importance.is_empty() {
            ui.warn("--exclude-weights leaves no entry of the importance matrix; there is no importance");
            return Ok(None);
        }
        Ok(Some(importance))
    }
}
