//! How long a token takes with tensors in one format or another, on this machine and now.
//!
//! Generating a token reads every weight once (of experts the chosen ones), so that its time is about the sum over the matrices of
//! bytes over a rate, and a rest that does not depend on formats: attention, norms, the exchange between threads. Rates are
//! measured for every format, with rows as long as the model's and as many of them as its layers have. They order the
//! plans, and no more: what is told of a plan is measured with the whole plan, by a model of its formats and shapes whose weights mean
//! nothing. The rest is what that took beyond the sum, so that plans near the measured one are predicted well.

use crate::backend::{self, BackendArgs, Sizes, Task};
use crate::engine::{self, Engine, Replaced};
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
    /// Seconds per byte, by a format's name and the length of a row.
    costs: BTreeMap<&'static str, Vec<(usize, f64)>>,
    /// Part of a tensor that a token reads, by the tensor's name.
    shares: BTreeMap<String, f64>,
    /// Seconds per token of everything else, from the plan that was measured last.
    rest: f64,
    /// Where that was.
    pub backend: String,
}

/// Generated tokens per second of a plan, over the repetitions of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Pace {
    /// The slowest but a tenth.
    pub low: f64,
    /// Half are slower.
    pub median: f64,
    /// The fastest but a tenth.
    pub high: f64,
}

/// A format for each tensor that has one in mind, by the tensor's name.
pub type Formats<'a> = BTreeMap<&'a str, &'static BlockFormat>;

/// Bytes of weights at most that a format is measured with: more than caches hold.
const MOST: usize = 128 << 20;
/// How long each format is measured with each length of rows, at least once through all its weights.
const TIME: Duration = Duration::from_millis(100);
/// Lengths of rows: of those in which most weights of the layers are.
const LENGTHS: usize = 2;
/// How long a plan generates, and how often; and tokens of a repetition at most, as many as `bench` takes by default.
const SECONDS: (f64, usize, usize) = (1.5, 5, 128);

impl Speeds {
    /// Measures all of `formats`, each alone.
    pub fn measure(model: &Model, formats: &[&'static BlockFormat], computing: BackendArgs, ui: &Ui) -> Result<Self> {
        backend::with(computing, &Sizes::of(model), ui, Rates { model, formats, ui })
    }

    /// Seconds per token that a tensor takes in a format that was measured.
    pub fn seconds(&self, tensor: &ModelTensor, format: &BlockFormat) -> f64 {
        let bytes = tensor.shape.len() as f64 * format.bits_per_weight() / 8.0;
        let far = |cols: usize| cols.abs_diff(tensor.shape.cols());
        let costs = self.costs.get(format.name).into_iter().flatten();
        let cost = costs.min_by_key(|(cols, _)| far(*cols)).map_or(0.0, |(_, cost)| *cost);
        cost * bytes * self.shares.get(&tensor.name).unwrap_or(&0.0)
    }

    /// Generates with a model of these formats, and takes the rest from it.
    pub fn try_plan(&mut self, model: &Model, formats: &Formats, computing: BackendArgs, ui: &Ui) -> Result<Pace> {
        let pace = backend::with(computing, &Sizes::of(model), ui, Trial { model, formats })?;
        let sum: f64 =
            model.tensors().iter().filter_map(|t| Some(self.seconds(t, formats.get(t.name.as_str())?))).sum();
        self.rest = 1.0 / pace.median - sum;
        Ok(pace)
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

struct Rates<'a> {
    model: &'a Model,
    formats: &'a [&'static BlockFormat],
    ui: &'a Ui,
}

impl Task for Rates<'_> {
    type Output = Speeds;

    fn run<B: Backend>(self, backend: &B) -> Result<Speeds> {
        let Rates { model, formats, ui } = self;
        let plan = model.plan()?;
        let matrices = || model.tensors().iter().filter(|t| t.shape.dims().len() >= 2);
        let shares = matrices().map(|t| (t.name.clone(), engine::share_read(model, &plan, t))).collect();
        let all: BTreeMap<&str, &'static BlockFormat> = formats.iter().map(|f| (f.name, *f)).collect();
        let lengths = lengths(model.layer_matrices());
        let bar = ui.steps_bar((all.len() * lengths.len()) as u64);
        bar.set_message("speed of formats");
        let mut costs: BTreeMap<&'static str, Vec<(usize, f64)>> = BTreeMap::new();
        for format in all.values() {
            for &(rows, cols, weights) in &lengths {
                // Rows of other lengths than those that the format allows are as fast as the next longer ones.
                let fitting = cols.next_multiple_of(format.block_weights);
                if let Some(cost) = seconds_per_byte(backend, format, (rows, fitting), weights)? {
                    costs.entry(format.name).or_default().push((cols, cost));
                }
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(Speeds { costs, shares, rest: 0.0, backend: backend.name() })
    }
}

/// The lengths of rows that most weights have: rows of a matrix, their length, weights of all.
fn lengths<'a>(matrices: impl Iterator<Item = &'a ModelTensor>) -> Vec<(usize, usize, usize)> {
    let mut shapes: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for t in matrices {
        let dims = t.shape.dims();
        *shapes.entry(t.shape.cols()).or_default().entry(dims[dims.len() - 2]).or_default() += t.shape.len();
    }
    let common = |(cols, rows): (&usize, &BTreeMap<usize, usize>)| {
        let (most, _) = rows.iter().max_by_key(|(_, weights)| **weights)?;
        Some((*most, *cols, rows.values().sum::<usize>()))
    };
    let mut lengths: Vec<(usize, usize, usize)> = shapes.iter().filter_map(common).collect();
    lengths.sort_by_key(|(_, cols, weights)| (usize::MAX - weights, *cols));
    lengths.truncate(LENGTHS);
    lengths
}

/// Numbers that mean nothing, quantized: small, so that sums stay in range whatever reads them.
fn row(format: &BlockFormat, cols: usize) -> Option<Vec<u8>> {
    let (quantize, row_bytes) = (format.quantize?, format.row_bytes(cols)?);
    let numbers: Vec<f32> = (0..cols).map(|i| (((i * 7919 + 13) % 1013) as f32 / 506.0 - 1.0) / 16.0).collect();
    let mut row = vec![0u8; row_bytes];
    quantize(&numbers, Some(&vec![1.0; cols]), &mut row);
    Some(row)
}

/// Of products with one token's activations. `None` for formats that nothing can be quantized to.
fn seconds_per_byte<B: Backend>(
    backend: &B,
    format: &'static BlockFormat,
    (rows, cols): (usize, usize),
    weights: usize,
) -> Result<Option<f64>> {
    let Some(row) = row(format, cols) else { return Ok(None) };
    let count = (weights.div_ceil(rows * cols)).min(MOST / (rows * row.len())).max(1);
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
    Ok(Some(best / (count * rows * row.len()) as f64))
}

struct Trial<'a> {
    model: &'a Model,
    formats: &'a Formats<'a>,
}

impl Task for Trial<'_> {
    type Output = Pace;

    fn run<B: Backend>(self, backend: &B) -> Result<Pace> {
        let Trial { model, formats } = self;
        let mut replaced = Replaced::new();
        for tensor in model.tensors().iter().filter(|t| t.shape.dims().len() >= 2) {
            let Some(&format) = formats.get(tensor.name.as_str()) else { continue };
            // What stays as it is needs no stand-in.
            if *format == *tensor.format {
                continue;
            }
            let row = row(format, tensor.shape.cols()).context("what a plan holds can be quantized to")?;
            let weight = QTensor::new(format, tensor.shape.clone(), row.repeat(tensor.shape.rows()))?;
            replaced.insert(tensor.name.clone(), weight);
        }
        let engine = Engine::load_replaced(backend, model, &replaced)?;
        let context = engine.plan().context;
        let generate = |tokens: usize, repetitions: usize| -> Result<Vec<f64>> {
            let tests = engine::Tests { generate: tokens, repetitions, ..engine::Tests::default() };
            let mut samples = engine::speed(&engine, &tests)?.generation.map(|r| r.samples).unwrap_or_default();
            samples.sort_by(f64::total_cmp);
            Ok(samples)
        };
        let (seconds, times, most) = SECONDS;
        let fast = generate(context.min(4), 1)?.first().copied().context("a token was generated")?;
        let tokens = ((fast * seconds / times as f64) as usize).clamp(4, most).min(context);
        let samples = generate(tokens, ((fast * seconds / tokens as f64) as usize).clamp(times, 200))?;
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
        Ok(Pace { low: at(0.1), median: at(0.5), high: at(0.9) })
    }
}
