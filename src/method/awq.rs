//! AWQ: activation-aware weight quantization (Lin et al. 2023, <https://arxiv.org/abs/2306.00978>).
//!
//! Columns that see large activations are scaled up before they are quantized, and what makes those activations is scaled down:
//! `s = mean|x|^a`, divided by `sqrt(max s * min s)`. The exponent is searched over 20 steps from 0, for every place where a scale
//! can be folded away, by what the scaled and quantized weights do to the output: `sum over rows of e C e^T` with `e` the error of
//! a row and `C` the mean products of the inputs. Then blocks are clipped where that helps ([`clip`]), except queries and keys and in
//! codebook formats, and unless the quantizer knows the Hessian.
//!
//! Whatever is found is judged on a quarter of the text that the search did not see, by the whole output's error, and taken only where
//! that is less by more than chance ([`GAIN`], [`CLIP_GAIN`]): where a model has no channels that stand out, awq leaves it as it is.
//!
//! Both parts go through the model as it was, block by block and once. What is searched for one half of a block is found before the
//! next half is looked at; of the halves before, what is to be done is kept: factors, and clipping's moments of a few dozen columns each.
//!
//! Differences from the paper: the quantizer is the target format's own, with importance as the run itself uses it; the error is
//! that of the linears that share a scale, not of the block around them; where several query heads read the same values, their
//! means are averaged. Of a mixture of experts, the scale in front of them is searched with the inputs of all tokens.

mod clip;

use super::sample::{Change, Sample};
use super::{Method, Needs, Tools, Transform, Work};
use crate::calibrate::{ChannelSums, Hessian, Wanted, channel_sums, not_finite};
use crate::model::{Model, Site, everywhere};
use anyhow::Result;
use std::sync::Arc;

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
/// What a scale has to save of the error. Which of two roundings of a model comes closer to it depends by as much on chance: on
/// prose-4m, scaling channels by factors next to 1 moves the divergence of rounding to nearest by 1 to 2 %.
const GAIN: f64 = 0.02;
/// What clipping has to save. It makes all large weights smaller, which a layer's error counts as little, and a model that is made of
/// such layers as more: where it saved 2 to 4 % of Q2_K's error on prose-4m, the model's divergence grew by 3 %.
const CLIP_GAIN: f64 = 0.05;

/// What the search found for one place.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    factors: Vec<f32>,
    step: usize,
    /// The error with the factors and without.
    errors: (f64, f64),
}

/// What is done to one place, and what that does to the outputs' errors on the part of the text that was not searched on.
struct Taken {
    factors: Option<Vec<f32>>,
    step: usize,
    clips: Vec<(String, clip::Clip)>,
    /// Before, and after.
    errors: (f64, f64),
}

/// The two parts of the text, seen from one place.
struct Seen {
    search: ChannelSums,
    judge: ChannelSums,
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
    // Who knows the whole Hessian fits grids under it, and would take clipped weights for the truth.
    let clipping = tools.quantizer.needs < Needs::Hessian;
    let may_clip = |name: &str| clipping && !is_score(name);

    let names: Vec<&str> = sites.iter().map(|s| s.to[0].as_str()).collect();
    let wanted = Wanted { names: &names, hessians: true, parts: &|chunk| text.parts(chunk) };
    let mut found = Vec::new();
    let seen: &Model = model;
    channel_sums(seen, text, &wanted, tools.ui, &mut |name, [search, judge]| {
        let Some(site) = sites.iter().find(|s| s.to[0] == name) else { return Ok(()) };
        found.push((site, take(seen, site, &Seen { search, judge }, &may_clip, tools)?));
        Ok(())
    })?;
    // Only now, so that all of the text ran through the model as it was.
    let (mut scaled, mut clips, mut errors, mut steps) = (0, Vec::new(), (0.0, 0.0), 0);
    for (site, taken) in found {
        if let Some(factors) = &taken.factors {
            model.scale(site, factors)?;
            scaled += 1;
            steps += taken.step;
        }
        errors = (errors.0 + taken.errors.0, errors.1 + taken.errors.1);
        clips.extend(taken.clips);
    }
    let clipped = clips.len();
    // Behind all scaling: of what goes in, which they were searched with, and of what comes out.
    for (name, clip) in clips {
        model.edit_rows(&name, Arc::new(move |row: &mut [f32]| clip.row(row)))?;
    }
    if !sites.is_empty() {
        let exponent = steps as f64 / scaled.max(1) as f64 / STEPS as f64;
        tools.ui.note(format!(
            "awq: {scaled} of {} places scaled{}, {clipped} matrices clipped; on {} chunks that were not searched on, the outputs' squared \
             error is {:.3} of what it was",
            sites.len(),
            if scaled > 0 { format!(", exponent {exponent:.2} on average") } else { String::new() },
            (0..text.chunks.len()).filter(|&i| text.parts(i)[1]).count(),
            errors.1 / errors.0.max(f64::MIN_POSITIVE),
        ));
    }
    Ok(())
}

/// Searches on one part of the text, and takes what stands the test of the other.
fn take(model: &Model, site: &Site, seen: &Seen, may_clip: &dyn Fn(&str) -> bool, tools: &Tools<'_>) -> Result<Taken> {
    let mut readers = Vec::new();
    for name in &site.to {
        readers.extend(Sample::of(model, tools, name)?);
    }
    let average = |all: &mut dyn Iterator<Item = f32>| {
        let (sum, n) = all.fold((0.0, 0), |(sum, n), x| (sum + x, n + 1));
        sum / n as f32
    };
    let means = site.gather(&seen.search.mean_absolute(), average);
    let mut taken = Taken { factors: None, step: 0, clips: Vec::new(), errors: (0.0, 0.0) };
    let (Some(hessian), Some(judge)) = (&seen.search.hessian, &seen.judge.hessian) else { return Ok(taken) };
    if !(hessian.is_finite() && judge.is_finite()) {
        return Err(not_finite(model, &site.to[0]));
    }
    let found = best(&readers, hessian, &means, |factors| site.spread(factors));
    let ones = vec![1.0; hessian.cols()];
    let judged = |columns: &[f32]| -> Vec<f64> {
        readers.iter().map(|r| outputs_error(r, &importance(hessian, columns), judge, columns, None)).collect()
    };
    let plain = judged(&ones);
    taken.errors.0 = plain.iter().sum();
    let (mut columns, mut errors) = (ones, plain);
    if found.step > 0 {
        let with = site.spread(&found.factors);
        let scaled = judged(&with);
        if scaled.iter().sum::<f64>() < (1.0 - GAIN) * taken.errors.0 {
            (columns, errors) = (with, scaled);
            (taken.factors, taken.step) = (Some(found.factors), found.step);
        }
    }
    let importance = importance(hessian, &columns);
    for (reader, error) in readers.iter().zip(&mut errors).filter(|(r, _)| may_clip(r.name)) {
        let Some(clip) = clip::Clip::new(reader.format, reader.quantize, hessian, &columns) else { continue };
        let clipped = outputs_error(reader, &importance, judge, &columns, Some(&|row| clip.row(row)));
        if clipped < (1.0 - CLIP_GAIN) * *error {
            *error = clipped;
            taken.clips.push((reader.name.to_owned(), clip));
        }
    }
    taken.errors.1 = errors.iter().sum();
    Ok(taken)
}

/// The exponent with the least error; of equals the least.
fn best(readers: &[Sample<'_>], moments: &Hessian, means: &[f32], spread: impl Fn(&[f32]) -> Vec<f32>) -> Found {
    let mut found: Option<Found> = None;
    for step in 0..STEPS {
        let factors = factors(means, step as f32 / STEPS as f32);
        let columns = spread(&factors);
        let importance = importance(moments, &columns);
        let error = readers.iter().map(|r| outputs_error(r, &importance, moments, &columns, None)).sum::<f64>();
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

/// Mean squares of inputs behind factors of their columns: what the run itself will know.
fn importance(moments: &Hessian, columns: &[f32]) -> Vec<f32> {
    moments.diagonal().iter().zip(columns).map(|(m, s)| m / (s * s)).collect()
}

/// Squared error of the output for inputs with these moments, if columns are scaled by this much, rows changed and rounded.
fn outputs_error(
    sample: &Sample<'_>,
    importance: &[f32],
    moments: &Hessian,
    columns: &[f32],
    change: Option<Change<'_>>,
) -> f64 {
    let mut errors = Hessian::new(columns.len());
    errors.add(&sample.errors(columns, Some(importance), change));
    errors.dot(moments)
}

#[cfg(test)]
mod tests;
