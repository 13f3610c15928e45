//! AWQ: activation-aware weight quantization (Lin et al. 2023, <https://arxiv.org/abs/2306.00978>).
//!
//! Columns that see large activations are scaled up before they are quantized, and what makes those activations is scaled down:
//! `s = mean|x|^a`, divided by `sqrt(max s * min s)`. The exponent is searched over 20 steps from 0, for every place where a scale
//! can be folded away, by what the scaled and quantized weights do to the output: `sum over rows of e C e^T` with `e` the error of
//! a row and `C` the mean products of the inputs. Then blocks are clipped where that helps ([`clip`]), except queries and keys, and unless the quantizer knows the Hessian.
//!
//! Differences from the paper: the quantizer is the target format's own, with importance as the run itself uses it; the error is
//! that of the linears that share a scale, not of the block around them; where several query heads read the same values, their
//! means are averaged. Of a mixture of experts, the scale in front of them is searched with the inputs of all tokens.

mod clip;

use super::{Method, Needs, QuantizeRows, Tools, Transform, Work};
use crate::calibrate::{ChannelSums, Hessian, channel_sums};
use crate::model::{Model, Site, everywhere};
use anyhow::Result;
use qconv_formats::block::BlockFormat;

/// Activation-aware scaling and clipping.
pub static AWQ: Method = Method {
    name: "awq",
    help: "scales columns by the activations that they see and clips blocks, both searched by the output's error (AWQ)",
    needs: Needs::Activations,
    work: Work::Transform(Transform { apply: scale_and_clip, setting: None }),
    suits: |_| Ok(()),
};

/// Exponents that are tried: 0, 1/20, ..., 19/20.
const STEPS: usize = 20;
/// Rows of a matrix whose error is measured; they are spread over all of it.
const ROWS: usize = 512;
/// Bytes of second moments that are collected in one run of the text. A larger model needs several.
const MEMORY: usize = 2 << 30;

/// A matrix under search.
struct Reader<'a> {
    format: &'static BlockFormat,
    rows: Vec<f32>, // (n, cols), a sample
    quantize: QuantizeRows,
    name: &'a str,
}

/// What was found for one place.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    factors: Vec<f32>,
    step: usize,
    /// The error with the factors and without.
    errors: (f64, f64),
}

fn scale_and_clip(model: &mut Model, tools: &Tools<'_>) -> Result<()> {
    let text = tools.text()?;
    let quantized = |name: &String| tools.formats.get(name).is_some_and(|f| f.is_quantized());
    let mut sites = model.sites()?;
    sites.retain(|s| s.layer.is_some() && s.to.iter().any(quantized));
    let plan = model.plan()?;
    let scores = match model.architecture() {
        Some(a) => everywhere(model, &plan, a.folds.scores),
        None => Vec::new(),
    };
    let is_score = |name: &str| scores.iter().any(|s| name.strip_suffix(".weight") == Some(s));

    let (mut before, mut after, mut steps) = (0.0, 0.0, 0);
    // Who knows the whole Hessian fits grids under it, and would take clipped weights for the truth.
    let clipping = tools.quantizer.needs < Needs::Hessian;
    let mut rest = sites.as_slice();
    let mut clips = Vec::new();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(model, rest));
        rest = later;
        let names: Vec<&str> = now.iter().map(|s| s.to[0].as_str()).collect();
        let mut seen = channel_sums(model, text, &names, true, tools.ui)?;
        let mut found = Vec::new();
        for site in now {
            found.push(search(model, site, &seen[&site.to[0]], tools)?);
        }
        for (site, found) in now.iter().zip(found) {
            model.scale(site, &found.factors)?;
            before += found.errors.1;
            after += found.errors.0;
            steps += found.step;
            let Some(ChannelSums { hessian: Some(hessian), .. }) = seen.remove(&site.to[0]) else { continue };
            let columns = site.spread(&found.factors);
            for name in site.to.iter().filter(|n| clipping && quantized(n) && !is_score(n)) {
                let format = tools.formats[name];
                clips.push((name.clone(), clip::Clip::new(format, tools.quantizer.rows(), &hessian, &columns)));
            }
        }
    }
    // Last, so that every text ran through the model as it was.
    for (name, clip) in clips {
        model.edit_rows(&name, std::sync::Arc::new(move |row: &mut [f32]| clip.row(row)))?;
    }
    if !sites.is_empty() {
        tools.ui.note(format!(
            "awq: {} places scaled, exponent {:.2} on average; the outputs' squared error is {:.3} of what it was{}",
            sites.len(),
            steps as f64 / sites.len() as f64 / STEPS as f64,
            after / before.max(f64::MIN_POSITIVE),
            if clipping { ", before clipping" } else { "" },
        ));
    }
    Ok(())
}

/// How many of the places have second moments that fit into memory together, at least one.
fn fitting(model: &Model, sites: &[Site]) -> usize {
    let bytes = |site: &Site| model.tensor(&site.to[0]).map_or(0, |t| t.shape.cols().pow(2) * size_of::<f64>());
    let mut sum = 0;
    let fits = |site: &&Site| {
        sum += bytes(site);
        sum <= MEMORY
    };
    sites.iter().take_while(fits).count().max(1)
}

/// Searches the exponent for one place.
fn search(model: &Model, site: &Site, sums: &ChannelSums, tools: &Tools<'_>) -> Result<Found> {
    let mut readers = Vec::new();
    for name in &site.to {
        let (Some(tensor), Some(&format)) = (model.tensor(name), tools.formats.get(name)) else { continue };
        if !format.is_quantized() {
            continue;
        }
        let (all, cols) = (tensor.shape.rows(), tensor.shape.cols());
        let step = all.div_ceil(ROWS);
        let mut rows = vec![0f32; all.div_ceil(step) * cols];
        for (i, row) in rows.chunks_exact_mut(cols).enumerate() {
            model.rows(tensor, i * step, row)?;
        }
        model.forget(tensor);
        readers.push(Reader { format, rows, quantize: tools.quantizer.rows(), name });
    }
    let average = |all: &mut dyn Iterator<Item = f32>| {
        let (sum, n) = all.fold((0.0, 0), |(sum, n), x| (sum + x, n + 1));
        sum / n as f32
    };
    let means = site.gather(&sums.mean_absolute(), average);
    let Some(hessian) = &sums.hessian else {
        return Ok(Found { factors: vec![1.0; site.count], step: 0, errors: (0.0, 0.0) });
    };
    Ok(best(&readers, hessian, &means, |factors| site.spread(factors)))
}

/// The exponent with the least error; of equals the least.
fn best(readers: &[Reader<'_>], moments: &Hessian, means: &[f32], spread: impl Fn(&[f32]) -> Vec<f32>) -> Found {
    let mut found: Option<Found> = None;
    for step in 0..STEPS {
        let factors = factors(means, step as f32 / STEPS as f32);
        let columns = spread(&factors);
        let error = readers.iter().map(|reader| reader.error(moments, &columns)).sum::<f64>();
        let plain = found.as_ref().map_or(error, |f| f.errors.1);
        if found.as_ref().is_none_or(|f| error < f.errors.0) {
            found = Some(Found { factors, step, errors: (error, plain) });
        }
    }
    found.unwrap_or(Found { factors: vec![1.0; means.len()], step: 0, errors: (0.0, 0.0) })
}

/// The paper's scales for one exponent. Channels that were never active stay as they are.
fn factors(means: &[f32], exponent: f32) -> Vec<f32> {
    let raw = |x: f32| if x > 0.0 { x.powf(exponent).max(1e-4) } else { 1.0 };
    let active = means.iter().filter(|x| **x > 0.0).map(|x| raw(*x));
    let (least, most) = active.fold((f32::INFINITY, 0f32), |(a, b), x| (a.min(x), b.max(x)));
    let middle = if most > 0.0 { (least * most).sqrt() } else { 1.0 };
    means.iter().map(|x| if *x > 0.0 { raw(*x) / middle } else { 1.0 }).collect()
}

impl Reader<'_> {
    /// Squared error of the output if columns are scaled by this much and quantized.
    fn error(&self, moments: &Hessian, columns: &[f32]) -> f64 {
        let cols = columns.len();
        let importance: Vec<f32> = moments.diagonal().iter().zip(columns).map(|(m, s)| m / (s * s)).collect();
        let Some(dequantize) = self.format.dequantize else {
            unreachable!("{}: what is quantized has weights", self.name)
        };
        let mut scaled = self.rows.clone();
        for row in scaled.chunks_exact_mut(cols) {
            row.iter_mut().zip(columns).for_each(|(w, s)| *w *= s);
        }
        let row_bytes = cols / self.format.block_weights * self.format.block_bytes;
        let mut packed = vec![0u8; scaled.len() / cols * row_bytes];
        (self.quantize)(self.format, cols, &scaled, Some(&importance), &mut packed);
        for ((row, bytes), weights) in
            scaled.chunks_exact_mut(cols).zip(packed.chunks_exact(row_bytes)).zip(self.rows.chunks_exact(cols))
        {
            dequantize(bytes, row);
            for ((x, s), w) in row.iter_mut().zip(columns).zip(weights) {
                *x = *x / s - w;
            }
        }
        let mut errors = Hessian::new(cols);
        errors.add(&scaled);
        errors.dot(moments)
    }
}

#[cfg(test)]
mod tests;
