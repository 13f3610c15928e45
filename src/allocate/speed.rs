//! How long a token takes with tensors in one format or another, on this machine and now.
//!
//! Generating a token reads every weight once (of experts the chosen ones), so that its time is the sum over the matrices of bytes
//! over a format's rate, and a rest that does not depend on formats: attention, norms, the exchange between threads. Rates are
//! measured with matrices of the model's own width, as many as its layers would be in that format; the rest is what the model as
//! it is takes beyond the sum.

use crate::backend::{self, BackendArgs, Sizes, Task};
use crate::engine::{self, Engine};
use crate::model::{Model, ModelTensor};
use crate::ui::Ui;
use anyhow::{Context as _, Result};
use qconv_formats::block::BlockFormat;
use qconv_formats::{QTensor, Shape};
use qconv_kernels::{Backend, Product};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What was measured.
#[derive(Debug, Clone)]
pub struct Speeds {
    /// Seconds per byte, by a format's name.
    costs: BTreeMap<&'static str, f64>,
    /// Part of a tensor that a token reads, by the tensor's name.
    shares: BTreeMap<String, f64>,
    /// Seconds per token of everything else.
    rest: f64,
    /// Where that was.
    pub backend: String,
}

/// Bytes of weights at most that a format is measured with: more than caches hold.
const MOST: usize = 128 << 20;
/// How long each format is measured, at least once through all its weights.
const TIME: Duration = Duration::from_millis(120);
/// Tokens that the model as it is generates, and how often.
const TOKENS: (usize, usize) = (12, 3);

impl Speeds {
    /// Measures all of `formats` and those that the model has.
    pub fn measure(model: &Model, formats: &[&'static BlockFormat], computing: BackendArgs, ui: &Ui) -> Result<Self> {
        backend::with(computing, &Sizes::of(model), ui, Job { model, formats, ui })
    }

    /// Seconds per token that a tensor takes in a format that was measured.
    pub fn seconds(&self, tensor: &ModelTensor, format: &BlockFormat) -> f64 {
        let bytes = tensor.shape.len() as f64 * format.bits_per_weight() / 8.0;
        self.costs.get(format.name).map_or(0.0, |cost| cost * bytes) * self.shares.get(&tensor.name).unwrap_or(&0.0)
    }

    /// Tokens per second where all tensors together take so many seconds.
    pub fn rate(&self, seconds: f64) -> f64 {
        1.0 / (self.rest + seconds)
    }

    /// Seconds that tensors may take together for so many tokens per second; may be negative.
    pub fn room(&self, rate: f64) -> f64 {
        1.0 / rate - self.rest
    }
}

struct Job<'a> {
    model: &'a Model,
    formats: &'a [&'static BlockFormat],
    ui: &'a Ui,
}

impl Task for Job<'_> {
    type Output = Speeds;

    fn run<B: Backend>(self, backend: &B) -> Result<Speeds> {
        let Job { model, formats, ui } = self;
        let plan = model.plan()?;
        let matrices = || model.tensors().iter().filter(|t| t.shape.dims().len() >= 2);
        let shares = matrices().map(|t| (t.name.clone(), engine::share_read(model, &plan, t))).collect();
        let mut all: BTreeMap<&str, &'static BlockFormat> = formats.iter().map(|f| (f.name, *f)).collect();
        all.extend(matrices().map(|t| (t.format.name, t.format)));
        let bar = ui.steps_bar(all.len() as u64 + 1);
        bar.set_message("speed of formats");
        // The shape that most weights of the layers have.
        let mut common: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for t in matrices().filter(|t| t.name.starts_with("blk.")) {
            let dims = t.shape.dims();
            *common.entry((dims[dims.len() - 2], t.shape.cols())).or_default() += t.shape.len();
        }
        let weights: usize = common.values().sum();
        let shape = common.iter().max_by_key(|(_, n)| **n).map(|(shape, _)| *shape);
        let (rows, cols) = shape.context("the model has no matrices in its layers")?;
        let mut speeds = Speeds { costs: BTreeMap::new(), shares, rest: 0.0, backend: backend.name() };
        for format in all.values() {
            // Rows of other lengths than those that the format allows are as fast as the next longer ones.
            let cols = cols.next_multiple_of(format.block_weights);
            if let Some(cost) = seconds_per_byte(backend, format, (rows, cols), weights)? {
                speeds.costs.insert(format.name, cost);
            }
            bar.inc(1);
        }
        let engine = Engine::load(backend, model, &mut Vec::new())?;
        let generate = TOKENS.0.min(plan.context);
        let tests = engine::Tests { generate, repetitions: TOKENS.1, ..engine::Tests::default() };
        let measured = engine::speed(&engine, &tests)?;
        let best = measured.generation.iter().flat_map(|r| &r.samples).fold(0.0, |m: f64, x| m.max(*x));
        let sum: f64 = matrices().map(|t| speeds.seconds(t, t.format)).sum();
        speeds.rest = (1.0 / best - sum).max(0.0);
        bar.finish_and_clear();
        Ok(speeds)
    }
}

/// Of products with one token's activations. `None` for formats that nothing can be quantized to.
fn seconds_per_byte<B: Backend>(
    backend: &B,
    format: &'static BlockFormat,
    (rows, cols): (usize, usize),
    weights: usize,
) -> Result<Option<f64>> {
    let (Some(quantize), Some(row_bytes)) = (format.quantize, format.row_bytes(cols)) else { return Ok(None) };
    let numbers: Vec<f32> = (0..cols).map(|i| ((i * 7919 + 13) % 1013) as f32 / 506.0 - 1.0).collect();
    let mut row = vec![0u8; row_bytes];
    quantize(&numbers, Some(&vec![1.0; cols]), &mut row);
    let count = (weights.div_ceil(rows * cols)).min(MOST / (rows * row_bytes)).max(1);
    let matrix = || -> Result<_> {
        let shape = Shape::new(&[rows, cols]).map_err(anyhow::Error::msg)?;
        Ok(backend.weight(QTensor::new(format, shape, row.repeat(rows))?)?)
    };
    let matrices = (0..count).map(|_| matrix()).collect::<Result<Vec<_>>>()?;
    let (mut x, mut out) = (backend.buffer(cols)?, backend.buffer(rows)?);
    backend.write(&vec![0.5; cols], &mut x)?;
    let mut result = vec![0.0; rows];
    let mut once = || -> Result<f64> {
        let start = Instant::now();
        for weight in &matrices {
            backend.matmul(&x, 1, &mut [Product { weight, bias: None, out: &mut out }])?;
        }
        backend.read(&out, &mut result)?; // a card's products have to be waited for
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    let begin = Instant::now();
    let mut best = once()?;
    while begin.elapsed() < TIME {
        best = best.min(once()?);
    }
    Ok(Some(best / (count * rows * row_bytes) as f64))
}
