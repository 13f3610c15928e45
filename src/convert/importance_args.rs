//! Options that say which importance matrix is used for what.

use crate::backend::BackendArgs;
use crate::calibrate::{self, Activations, Calibration, Request};
use crate::convert::Importance;
use crate::model::Model;
use crate::ui::{self, Ui};
use anyhow::Result;
use clap::ValueEnum as _;
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

    /// Whose activations methods see that go layer by layer [default: both]
    #[arg(long, value_enum, value_name = "MODEL", requires = "calibration", help_heading = "Importance")]
    pub calibration_from: Option<Activations>,

    /// Use the matrix only for tensors whose name contains NAME (repeatable)
    #[arg(long, value_name = "NAME", requires = "matrix", help_heading = "Importance")]
    include_weights: Vec<String>,

    /// Do not use the matrix for tensors whose name contains NAME (repeatable)
    #[arg(
        long,
        value_name = "NAME",
        requires = "matrix",
        conflicts_with = "include_weights",
        help_heading = "Importance"
    )]
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
        if let Some(from) =
            self.calibration_from.filter(|_| self.calibration.is_some()).and_then(|f| f.to_possible_value())
        {
            args.push(format!("--calibration-from={}", from.get_name()));
        }
        args.extend(self.include_weights.iter().map(|name| format!("--include-weights={name}")));
        args.extend(self.exclude_weights.iter().map(|name| format!("--exclude-weights={name}")));
        args
    }

    /// What importance comes from: the matrix or the text.
    pub fn data(&self) -> Option<&PathBuf> {
        self.imatrix.as_ref().or(self.calibration.as_ref())
    }

    /// Cuts the text for a model, if there is one.
    pub fn text(&self, model: &Model, computing: BackendArgs, ui: &Ui) -> Result<Option<Calibration>> {
        let Some(file) = &self.calibration else { return Ok(None) };
        let (ctx, chunks) = (self.calibration_ctx, self.calibration_chunks);
        let from = self.calibration_from.unwrap_or_default();
        let request =
            Request { file, ctx, chunks, skip: 0, parse_special: false, from, computing, flags: "--calibration-" };
        Calibration::read(model, &request, ui).map(Some)
    }

    /// Reads the matrix or collects it from the text, if either is asked for. `None` too if the other options leave nothing of
    /// it.
    pub fn open(&self, model: &Model, text: Option<&Calibration>, ui: &Ui) -> Result<Option<Importance>> {
        let (include, exclude) = (&self.include_weights, &self.exclude_weights);
        let importance = if let Some(text) = text {
            let found = calibrate::collect(model, text, false, ui)?;
            let (chunks, ctx, seconds) = (found.chunks, found.ctx, ui::seconds(found.seconds));
            ui.note(format!("{}: calibrated on {chunks} chunks of {ctx} tokens in {seconds}", text.file.display()));
            Importance::collected(&found.matrix, &text.file, include, exclude)?
        } else if let Some(file) = &self.imatrix {
            Importance::new(&calibrate::open(file, ui)?, file, include, exclude)?
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
