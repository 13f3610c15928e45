//! The sums of squares that make an importance matrix.

use super::not_finite;
use crate::arch::Plan;
use crate::engine::{Inputs, Observer};
use crate::error::malformed;
use crate::model::Model;
use qconv_formats::imatrix::{Entry, Imatrix};
use std::collections::BTreeMap;

/// Sums up the squares of the inputs of every linear in the blocks, expert by expert, and on demand of the output matrix:
/// llama-imatrix's definition, summed in f64 in the order of the tokens, so that it does not matter how many are computed
/// together.
///
/// llama-imatrix's own sums differ by up to a thousandth. Its cache and attention are in half precision, and GELU there is a
/// table that rounds argument and result to half precision: on a tiny Gemma 3 with f32 caches and no flash attention, all
/// inputs of the first block agree to 4e-7 but those behind GELU, to 3e-4.
#[derive(Debug)]
pub struct Collector {
    entries: BTreeMap<String, Sums>,
    experts: usize,
    output: bool,
}

#[derive(Debug)]
struct Sums {
    sums: Vec<f64>,   // (counts.len(), cols)
    counts: Vec<u64>, // rows seen, per matrix of a stack
}

impl Collector {
    /// For a model; `output`: of the output matrix too.
    pub fn new(plan: &Plan, output: bool) -> Self {
        let experts = plan.feed.experts.map_or(1, |e| e.count);
        Collector { entries: BTreeMap::new(), experts, output }
    }

    /// The matrix. `dataset` is what the text is called, `ctx` the tokens of a chunk. Errors: a sum that is no number, for
    /// which `model` is to blame.
    pub fn finish(self, dataset: &str, ctx: usize, model: &Model) -> anyhow::Result<Imatrix> {
        let chunk_size = u32::try_from(ctx).unwrap_or(u32::MAX);
        let mut matrix = Imatrix { datasets: vec![dataset.to_owned()], chunk_size, ..Imatrix::default() };
        for (name, s) in self.entries {
            let sums = s.sums.iter().map(|x| *x as f32).collect();
            let entry = Entry::new(sums, s.counts).map_err(|what| match s.sums.iter().all(|x| x.is_finite()) {
                true => malformed(model.path(), format!("inputs of {name}"), what),
                false => not_finite(model, &name),
            })?;
            matrix.entries.insert(name, entry);
        }
        matrix.chunk_count = matrix.chunks_seen();
        Ok(matrix)
    }
}

impl Observer for Collector {
    fn wants(&self, weight: &str) -> bool {
        weight.starts_with("blk.") || (self.output && weight == "output.weight")
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let cols = inputs.cols;
        let rows = (inputs.rows.len() / cols) as u64;
        let matrices = if inputs.expert.is_some() { self.experts } else { 1 };
        let at = inputs.expert.unwrap_or(0);
        for name in inputs.weights {
            if !self.entries.contains_key(*name) {
                let empty = Sums { sums: vec![0.0; matrices * cols], counts: vec![0; matrices] };
                self.entries.insert((*name).to_owned(), empty);
            }
            let Some(entry) = self.entries.get_mut(*name) else { continue };
            entry.counts[at] += rows;
            let sums = &mut entry.sums[at * cols..(at + 1) * cols];
            for row in inputs.rows.chunks_exact(cols) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
            }
        }
    }
}
