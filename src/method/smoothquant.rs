//! SmoothQuant (Xiao et al. 2023, <https://arxiv.org/abs/2211.10438>): outliers of activations move into weights.
//!
//! Channel `j` behind a norm is divided by `s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)`, and the columns that read it are multiplied
//! with it, so that neither activations nor weights have much larger channels than others. That is for 8-bit weights *and*
//! activations, above all with one scale for many activations (`--activations int8-token`, `int8-tensor`); with few bits for
//! weights it rather harms. Factors go into norms only, as in the paper.

use super::{Method, Needs, Setting, Tools, Transform, Work};
use crate::arch::Channels;
use crate::calibrate::{Wanted, channel_sums};
use crate::error::caller;
use crate::model::{Model, Site};
use anyhow::Result;
use std::collections::BTreeMap;

/// Smoothing of activations.
pub static SMOOTHQUANT: Method = Method {
    name: "smoothquant",
    help: "moves outliers of activations into weights (SmoothQuant), for 8-bit weights and activations",
    needs: Needs::Activations,
    work: Work::Transform(Transform {
        apply: smooth,
        setting: Some(Setting {
            name: "alpha",
            help: "how much of the difficulty moves: 0 none of the activations', 1 all of it",
            default: 0.5,
            range: (0.0, 1.0),
            whole: false,
        }),
    }),
    suits: |_| Ok(()),
};

/// Factors and maxima are at least this (the authors' code).
const LEAST: f32 = 1e-5;

fn smooth(model: &mut Model, tools: &Tools<'_>) -> Result<()> {
    let text = tools.text()?;
    let mut sites = model.sites()?;
    sites.retain(|s| s.channels == Channels::Stream && s.layer.is_some());
    if sites.is_empty() {
        let path = model.path().display();
        return Err(caller(format!("{path}: has no norm before attention or feed-forward that factors could go into")));
    }
    let names: Vec<&str> = sites.iter().map(|s| s.to[0].as_str()).collect();
    let mut activations = BTreeMap::new();
    let wanted = Wanted { names: &names, hessians: false, parts: &|_| [true] };
    channel_sums(model, text, &wanted, tools.ui, &mut |name, [sums]| {
        activations.insert(name.to_owned(), sums.largest().to_vec());
        Ok(())
    })?;
    for site in &sites {
        let weights = largest_weights(model, site)?;
        model.scale(site, &factors(&activations[&site.to[0]], &weights, tools.setting as f32))?;
    }
    Ok(())
}

/// Largest absolute weight that reads each channel.
fn largest_weights(model: &Model, site: &Site) -> Result<Vec<f32>> {
    let mut largest = vec![0f32; site.count];
    for tensor in site.to.iter().filter_map(|name| model.tensor(name)) {
        let mut row = vec![0f32; site.count];
        for r in 0..tensor.shape.rows() {
            model.rows(tensor, r, &mut row)?;
            largest.iter_mut().zip(&row).for_each(|(m, w)| *m = m.max(w.abs()));
        }
        model.forget(tensor);
    }
    Ok(largest)
}

/// What columns are multiplied with. Channels that were never active stay as they are.
fn factors(activations: &[f32], weights: &[f32], alpha: f32) -> Vec<f32> {
    let factor = |x: f32, w: f32| match x > 0.0 {
        true => (x.powf(alpha) / w.max(LEAST).powf(1.0 - alpha)).max(LEAST),
        false => 1.0,
    };
    activations.iter().zip(weights).map(|(x, w)| factor(*x, *w)).collect()
}

#[cfg(test)]
mod tests {
    use super::factors;

    #[test]
    fn factors_are_the_papers() {
        // Figure 5 of the paper: alpha 0.5, columns' maxima 2, 16 and so on.
        let s = factors(&[2.0, 16.0, 2.0, 9.0], &[2.0, 1.0, 2.0, 1.0], 0.5);
        assert_eq!(s, [1.0, 4.0, 1.0, 3.0]);
        assert_eq!(factors(&[0.0, 3.0], &[5.0, 0.0], 1.0), [1.0, 3.0]);
    }
}
