//! What goes into some matrices, channel by channel: for methods that scale channels.

use super::{Calibration, Hessian, not_finite};
use crate::engine::{Inputs, Observer};
use crate::error::malformed;
use crate::model::Model;
use crate::ui::Ui;
use anyhow::Result;
use std::collections::BTreeMap;

/// Sums over the inputs of one matrix.
#[derive(Debug, Clone)]
pub struct ChannelSums {
    inputs: u64,
    absolute: Vec<f64>,
    largest: Vec<f32>,
    /// Products of the inputs, where they were asked for.
    pub hessian: Option<Hessian>,
}

impl ChannelSums {
    /// Of no inputs yet.
    pub fn new(cols: usize, hessian: bool) -> Self {
        let hessian = hessian.then(|| Hessian::new(cols));
        ChannelSums { inputs: 0, absolute: vec![0.0; cols], largest: vec![0.0; cols], hessian }
    }

    /// Adds inputs: `rows` is `(n, cols)`.
    pub fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.absolute.len()) {
            self.inputs += 1;
            for ((sum, largest), x) in self.absolute.iter_mut().zip(&mut self.largest).zip(row) {
                *sum += f64::from(x.abs());
                *largest = largest.max(x.abs());
            }
        }
        if let Some(hessian) = &mut self.hessian {
            hessian.add(rows);
        }
    }

    /// Mean of the absolute value, per channel.
    pub fn mean_absolute(&self) -> Vec<f32> {
        self.absolute.iter().map(|x| (x / self.inputs.max(1) as f64) as f32).collect()
    }

    /// Largest absolute value, per channel.
    pub fn largest(&self) -> &[f32] {
        &self.largest
    }

    fn is_finite(&self) -> bool {
        self.absolute.iter().all(|x| x.is_finite())
    }
}

struct Watching {
    sums: BTreeMap<String, Option<ChannelSums>>,
    hessians: bool,
}

impl Observer for Watching {
    fn wants(&self, weight: &str) -> bool {
        self.sums.contains_key(weight)
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let hessians = self.hessians;
        for name in inputs.weights {
            if let Some(sums) = self.sums.get_mut(*name) {
                sums.get_or_insert_with(|| ChannelSums::new(inputs.cols, hessians)).add(inputs.rows);
            }
        }
    }
}

/// Runs a text through a model and sums up what goes into the matrices of these names; with `hessians` also its products. Errors:
/// activations that are not finite, for which the model is to blame; a matrix that saw nothing.
pub fn channel_sums(
    model: &Model,
    calibration: &Calibration,
    names: &[&str],
    hessians: bool,
    ui: &Ui,
) -> Result<BTreeMap<String, ChannelSums>> {
    let sums = names.iter().map(|name| ((*name).to_owned(), None)).collect();
    let mut watching = Watching { sums, hessians };
    calibration.observe(model, &mut watching, false, ui)?;
    let finished = watching.sums.into_iter().map(|(name, sums)| match sums {
        Some(sums) if sums.is_finite() => Ok((name, sums)),
        Some(_) => Err(not_finite(model, &name)),
        None => Err(malformed(model.path(), format!("inputs of {name}"), "never came: nothing was multiplied with it")),
    });
    finished.collect()
}
