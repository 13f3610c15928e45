//! QuaRot's rotations that cost nothing at run time (Ashkboos et al. 2024, <https://arxiv.org/abs/2404.00456>).
//!
//! Outliers sit in a few channels; a random rotation spreads them over all, and the rotated model quantizes better. What the
//! residual stream holds is rotated by one matrix (R1 in SpinQuant's naming): whoever writes to the stream is multiplied with it
//! from the one side, whoever reads it from the other. RMS norms keep lengths and so allow it, once their weights have moved into
//! the linears behind them. Values are rotated head by head (R2), undone by the output of attention. The paper's other two
//! rotations, before `down` and of queries and keys, would have to be computed while the model runs; no GGUF reader does.
//!
//! Rotated weights are spread like a bell curve, whatever they were before, and no format rounds them better or worse than that. Where
//! there were outliers, much is gained; weights that were easier to round before lose. So what rounding costs is measured before and
//! after: the share of the weights' squares that is lost, with every column counted by its inputs, as importance does, where there is a
//! text, else as much as the norm in front of it makes it count. If that has grown, the user is warned, unless the quantizer goes by
//! the Hessian, for which this share says little: the one without data is told.
//!
//! The result is an ordinary model of its family, with an output matrix of its own: tied embeddings are untied, since the norm in
//! front of the output moves into one of the two only. The embeddings keep the type that they had as output.

use super::sample::Sample;
use super::{Method, Needs, Setting, Tools, Transform, Work};
use crate::arch::Channels;
use crate::calibrate::{self, Calibration};
use crate::error::caller;
use crate::model::{Axis, Edit, EditChange, Model, Rotation, everywhere};
use anyhow::Result;
use qconv_formats::imatrix::Imatrix;
use qconv_kernels::Norm;
use std::sync::Arc;

/// Rotation of the residual stream and of values.
pub static QUAROT: Method = Method {
    name: "quarot",
    help: "rotates residual stream and values by random Hadamard matrices (QuaRot), no data needed; an output that shares the \
           embeddings gets weights of its own",
    needs: Needs::Nothing,
    work: Work::Transform(Transform {
        apply: rotate,
        setting: Some(Setting {
            name: "seed",
            help: "the random signs",
            default: 0.0,
            range: (0.0, u32::MAX as f64),
            whole: true,
        }),
    }),
    suits: |_| Ok(()),
};

/// Tokens of the text that are looked at before and after the rotation.
const JUDGED: usize = 8192;

fn rotate(model: &mut Model, tools: &Tools<'_>) -> Result<()> {
    let text = tools.calibration.filter(|_| tools.quantizer.needs == Needs::Nothing).map(first_chunks);
    let before = lost(model, tools, text.as_ref())?;
    rotate_all(model, tools)?;
    let after = lost(model, tools, text.as_ref())?;
    let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
    if !(before.is_finite() && after.is_finite()) {
        return Ok(()); // damaged weights: the conversion names them
    }
    let counted = if text.is_some() { "their squares, weighed by the text" } else { "their squares" };
    let what = format!(
        "rounding loses {} % of the rotated weights (of {counted}), {} % of what they were",
        percent(after),
        percent(before)
    );
    if after > before && tools.quantizer.needs < Needs::Hessian {
        tools.ui.warn(format!(
            "quarot: {what}: they have no outliers that a rotation would spread; without quarot, or with quarot+gptq, the file is likely \
             to be better"
        ));
    } else {
        tools.ui.note(format!("quarot: {what}"));
    }
    Ok(())
}

/// A share with three digits that say something.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = 2 - percent.max(1e-9).log10().floor() as i32;
    format!("{percent:.*}", digits.max(0) as usize)
}

/// The beginning of a text, which is enough to judge by.
fn first_chunks(text: &Calibration) -> Calibration {
    let chunks = text.chunks.iter().take(JUDGED.div_ceil(text.ctx)).cloned().collect();
    Calibration { chunks, ..text.clone() }
}

/// What rounding does to the outputs, as a share of what they would be if all channels in front of the norms were alike; the mean over
/// the matrices. An error counts as much as the mean square of its column's inputs, by which it is rounded too; without a text as
/// much as the norm makes it count. `None` if nothing is quantized.
fn lost(model: &Model, tools: &Tools<'_>, text: Option<&Calibration>) -> Result<Option<f64>> {
    let plan = model.plan()?;
    let sites = model.sites()?;
    let seen = text.map(|text| calibrate::collect(model, text, false, tools.ui)).transpose()?;
    let tables = model.architecture().map(|a| everywhere(model, &plan, a.folds.tables)).unwrap_or_default();
    let mut shares = Vec::new();
    for name in tools.formats.keys() {
        if tables.iter().any(|table| name.strip_suffix(".weight") == Some(table)) {
            continue;
        }
        let Some(sample) = Sample::of(model, tools, name)? else { continue };
        let importance = seen.as_ref().and_then(|seen| importance(&seen.matrix, name, sample.cols));
        let mut norm = vec![1f32; sample.cols];
        let site = sites.iter().find(|s| s.channels == Channels::Stream && s.to.contains(name));
        if let Some(tensor) = site.and_then(|s| model.tensor(&format!("{}.weight", s.from))) {
            model.rows(tensor, 0, &mut norm)?;
        }
        norm.iter_mut().for_each(|g| *g *= *g);
        let errors = sample.errors(&vec![1.0; sample.cols], importance.as_deref(), None);
        let importance = importance.as_ref().unwrap_or(&norm);
        let size = importance.iter().zip(&norm).map(|(i, g)| if *g > 0.0 { f64::from(i / g) } else { 0.0 });
        let size = size.sum::<f64>() / sample.cols as f64; // of what goes into the norm: no rotation changes that
        let all = squares(&sample.rows, &norm) * size;
        shares.push(squares(&errors, importance) / all.max(f64::MIN_POSITIVE));
    }
    Ok((!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64))
}

/// The sum of a matrix's squares, each column's times its factor.
fn squares(rows: &[f32], factors: &[f32]) -> f64 {
    let row = |row: &[f32]| row.iter().zip(factors).map(|(x, f)| f64::from(x * x * f)).sum::<f64>();
    rows.chunks_exact(factors.len()).map(row).sum()
}

/// Mean squares of a matrix's inputs; of a stack of experts those of all together. `None` if it had none.
fn importance(matrix: &Imatrix, name: &str, cols: usize) -> Option<Vec<f32>> {
    let entry = matrix.entries.get(name)?;
    let inputs: u64 = entry.counts().iter().sum();
    let mean = |c: usize| entry.sums().iter().skip(c).step_by(cols).sum::<f32>() / inputs as f32;
    let means: Vec<f32> = (0..cols).map(mean).collect();
    (inputs > 0 && means.iter().any(|x| *x > 0.0)).then_some(means)
}

fn rotate_all(model: &mut Model, tools: &Tools<'_>) -> Result<()> {
    let plan = model.plan()?;
    let Some(folds) = model.architecture().map(|a| a.folds) else { return Ok(()) };
    let path = model.path().display().to_string();
    if plan.norm != Norm::Rms {
        return Err(caller(format!("{path}: its norms subtract the mean, which a rotation of the channels changes")));
    }
    if let Some(name) = everywhere(model, &plan, folds.writer_norms).first() {
        return Err(caller(format!(
            "{path}: the norm {name} stands between a layer and the residual stream; its weights cannot be moved out of a rotation's way"
        )));
    }
    let seed = tools.setting as u64;
    let stream = Rotation::new(plan.width, seed).map(Arc::new).ok_or_else(|| no_matrix(&path, "width", plan.width))?;
    if model.untie() {
        tools
            .ui
            .note("quarot: the output shares the embeddings' weights; it gets its own, by which the file is larger");
    }
    let sites = model.sites()?;
    for site in sites.iter().filter(|s| s.channels == Channels::Stream) {
        model.unload_norm(site)?;
        for name in &site.to {
            model.edit(name, Edit { axis: Axis::Inputs, change: EditChange::Rotate(stream.clone()) })?;
        }
    }
    for name in everywhere(model, &plan, folds.tables) {
        let change = EditChange::Rotate(stream.clone());
        model.edit(&format!("{name}.weight"), Edit { axis: Axis::Inputs, change })?;
    }
    for name in everywhere(model, &plan, folds.writers) {
        model.edit_outputs(&name, plan.width, EditChange::Rotate(stream.clone()))?;
    }
    for site in sites.iter().filter(|s| s.channels == Channels::Values) {
        // Every layer has signs of its own, and none those of the stream.
        let seed = seed ^ ((site.layer.unwrap_or(0) as u64 + 1) << 32);
        let head = Rotation::new(plan.value_dim, seed).map(Arc::new);
        let head = head.ok_or_else(|| no_matrix(&path, "width of a head", plan.value_dim))?;
        model.edit_outputs(&site.from, site.count, EditChange::Rotate(head.clone()))?;
        for name in &site.to {
            model.edit(name, Edit { axis: Axis::Inputs, change: EditChange::Rotate(head.clone()) })?;
        }
    }
    Ok(())
}

fn no_matrix(path: &str, what: &str, n: usize) -> anyhow::Error {
    caller(format!("{path}: its {what} is {n}, of which order no Hadamard matrix is known here"))
}
