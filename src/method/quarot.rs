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
//! after, without any data: the share of the weights' squares that is lost, with every column counted as much as the norm in front
//! of it makes it count. If that has grown, the user is warned, unless the quantizer goes by the Hessian, for which this share says little.
//!
//! The result is an ordinary model of its family, with an output matrix of its own: tied embeddings are untied, since the norm in
//! front of the output moves into one of the two only. The embeddings keep the type that they had as output.

use super::sample::Sample;
use super::{Method, Needs, Setting, Tools, Transform, Work};
use crate::arch::Channels;
use crate::error::caller;
use crate::model::{Axis, Edit, EditChange, Model, Rotation, everywhere};
use anyhow::Result;
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

fn rotate(model: &mut Model, tools: &Tools<'_>) -> Result<()> {
    let before = lost(model, tools)?;
    rotate_all(model, tools)?;
    let after = lost(model, tools)?;
    let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
    if !(before.is_finite() && after.is_finite()) {
        return Ok(()); // damaged weights: the conversion names them
    }
    let what = format!(
        "rounding loses {:.3} % of the rotated weights (of their squares), {:.3} % of what they were",
        after * 100.0,
        before * 100.0
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

/// The mean over the matrices of the share of their squares that rounding loses. Columns count by the norm in front of them: what
/// goes into it is taken to be alike in all channels. `None` if nothing is quantized.
fn lost(model: &Model, tools: &Tools<'_>) -> Result<Option<f64>> {
    let plan = model.plan()?;
    let sites = model.sites()?;
    let tables = model.architecture().map(|a| everywhere(model, &plan, a.folds.tables)).unwrap_or_default();
    let mut shares = Vec::new();
    for name in tools.formats.keys() {
        if tables.iter().any(|table| name.strip_suffix(".weight") == Some(table)) {
            continue;
        }
        let Some(sample) = Sample::of(model, tools, name)? else { continue };
        let mut norm = vec![1f32; sample.cols];
        let site = sites.iter().find(|s| s.channels == Channels::Stream && s.to.contains(name));
        if let Some(tensor) = site.and_then(|s| model.tensor(&format!("{}.weight", s.from))) {
            model.rows(tensor, 0, &mut norm)?;
        }
        let squares = |rows: &[f32]| -> f64 {
            let row = |row: &[f32]| row.iter().zip(&norm).map(|(x, g)| f64::from(x * g).powi(2)).sum::<f64>();
            rows.chunks_exact(sample.cols).map(row).sum()
        };
        let errors = sample.errors(&vec![1.0; sample.cols], None, None);
        shares.push(squares(&errors) / squares(&sample.rows).max(f64::MIN_POSITIVE));
    }
    Ok((!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64))
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
