//! The divergence that a model shows when some of its tensors are quantized.

use crate::backend::{self, Sizes, Task};
use crate::calibrate::Calibration;
use crate::convert::Importance;
use crate::engine::{Engine, Replaced};
use crate::eval::{self, Base};
use crate::model::{Model, ModelTensor};
use crate::output::ScratchFolder;
use crate::ui::Ui;
use anyhow::{Context as _, Result};
use qconv_formats::QTensor;
use qconv_formats::block::{self, BlockFormat};
use qconv_kernels::Backend;
use qconv_kernels::cpu::{Isa, quantize};
use rayon::prelude::*;

/// What measures.
pub struct Meter<'a> {
    /// The original.
    pub model: &'a Model,
    /// The text.
    pub text: &'a Calibration,
    /// At most so many of its chunks.
    pub chunks: usize,
    /// How tensors are quantized.
    pub importance: Option<&'a Importance>,
    /// For progress.
    pub ui: &'a Ui,
}

/// Tensors that become something else together.
pub type Trial<'a> = Vec<(&'a ModelTensor, &'static BlockFormat)>;

impl Meter<'_> {
    /// The divergence of each trial from the original, in nats. Activations are not rounded: what is seen is the weights'.
    pub fn divergences(&self, trials: &[Trial]) -> Result<Vec<f64>> {
        let sizes = Sizes::of(self.model);
        backend::with(self.text.computing.precise(), &sizes, self.ui, Job { meter: self, trials })
    }

    /// A tensor as rounding to nearest makes it.
    fn quantized(&self, tensor: &ModelTensor, format: &'static BlockFormat) -> Result<QTensor> {
        let (rows, cols) = (tensor.shape.rows(), tensor.shape.cols());
        let dims = tensor.shape.dims();
        let matrix = if dims.len() > 1 { dims[dims.len() - 2] } else { 1 };
        let row_bytes = format.row_bytes(cols).context("candidates fit rows")?;
        let pack = quantize::best(format, Isa::pick(None).unwrap_or(Isa::Scalar)).context("candidates can be made")?;
        let importance = self.importance.filter(|_| format.importance != block::Importance::Unused);
        let importance = importance.and_then(|all| all.of(&tensor.name, &tensor.shape));
        let mut bytes = vec![0u8; rows * row_bytes];
        bytes.par_chunks_mut(row_bytes).enumerate().try_for_each_init(
            || vec![0f32; cols],
            |row, (r, out)| {
                self.model.rows(tensor, r, row)?;
                pack(row, importance.map(|all| &all[r / matrix * cols..][..cols]), out);
                Ok::<_, anyhow::Error>(())
            },
        )?;
        Ok(QTensor::new(format, tensor.shape.clone(), bytes)?)
    }
}

struct Job<'a> {
    meter: &'a Meter<'a>,
    trials: &'a [Trial<'a>],
}

impl Task for Job<'_> {
    type Output = Vec<f64>;

    fn run<B: Backend>(self, backend: &B) -> Result<Vec<f64>> {
        let Job { meter, trials } = self;
        let chunks = meter.text.chunks.len().min(meter.chunks);
        let tokens = meter.text.chunks[..chunks].concat();
        // BOS stands in its place already.
        let options = eval::Options { ctx: meter.text.ctx, stride: None, chunks: None, bos: None };
        let scratch = ScratchFolder::new("qconv-measure")?;
        let path = scratch.path().join("logits");
        let original = Engine::load(backend, meter.model, &mut Vec::new())?;
        let (_, mut recorded) = eval::record(&original, &path, &tokens, &options, |_, _, _| {})?;
        drop(original);
        let bar = meter.ui.steps_bar(trials.len() as u64);
        bar.set_message("sensitivity");
        let mut out = Vec::with_capacity(trials.len());
        for trial in trials {
            let mut replaced = Replaced::new();
            for (tensor, format) in trial {
                replaced.insert(tensor.name.clone(), meter.quantized(tensor, format)?);
            }
            let engine = Engine::load_replaced(backend, meter.model, &replaced)?;
            let base = Base::Recorded(&mut recorded);
            let quality = eval::perplexity(&engine, base, &tokens, &options, |_, _, _| {})?;
            out.push(quality.divergence.context("there is an original")?.kl_divergence.max(0.0));
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(out)
    }
}
