//! Which tensor gets which format, where a size, bits per weight or a divergence is asked for.
//!
//! The question of HAQ (Wang et al. 2019), without an agent that learns: the divergence of a quantized model is, for small errors, the
//! sum of what its tensors cause alone. What a tensor causes under a format is the error of its product with its inputs
//! (weighted by importance), times a factor of the tensor: from measurements of the model with only that tensor quantized,
//! or, without, the inverse of the product's own size. The allocation that is best in this model is then found by
//! dynamic programming ([`knapsack`]).

pub mod knapsack;
mod measure;
mod sensitivity;
mod speed;

pub use measure::{Meter, Trial};
pub use sensitivity::{Errors, errors};
pub use speed::{Formats, Pace, Speeds};

use crate::model::ModelTensor;
use anyhow::Result;
use knapsack::{Choice, Found};
use qconv_formats::block::BlockFormat;

/// One tensor's place in the problem.
pub struct Item<'a> {
    /// The tensor.
    pub tensor: &'a ModelTensor,
    /// What it may become.
    pub formats: Vec<&'static BlockFormat>,
}

/// Tensors, candidates, and what each choice costs.
pub struct Problem<'a> {
    /// The tensors that are quantized at all.
    pub items: Vec<Item<'a>>,
    /// For each, size and cost of each candidate; in nats where it was measured.
    pub choices: Vec<Vec<Choice>>,
    /// Costs are divergences.
    pub measured: bool,
}

/// Bits per weight at which each tensor's divergence is measured: where formats are coarse, and in the middle.
const PROBES: [f64; 2] = [2.7, 4.5];

impl<'a> Problem<'a> {
    /// Finds what every choice costs; with a `meter` in nats. `size`: bytes of a tensor in a format.
    pub fn new(
        items: Vec<Item<'a>>,
        errors: &[Errors],
        meter: Option<&Meter<'_>>,
        size: impl Fn(&ModelTensor, &BlockFormat) -> u64,
    ) -> Result<Self> {
        let factors = match meter {
            Some(meter) => measured_factors(&items, errors, meter)?,
            // The error relative to the product.
            None => errors.iter().map(|e| Factor::Constant(1.0 / e.energy.max(f64::MIN_POSITIVE))).collect(),
        };
        let choices = items.iter().zip(errors).zip(&factors).map(|((item, errors), factor)| {
            let choice = |(format, error): (&&'static BlockFormat, &f64)| Choice {
                size: size(item.tensor, format),
                cost: factor.at(*error) * error,
            };
            item.formats.iter().zip(&errors.errors).map(choice).collect()
        });
        Ok(Problem { choices: choices.collect(), items, measured: meter.is_some() })
    }

    /// The formats that were found.
    pub fn formats(&self, found: &Found) -> Trial<'a> {
        self.items.iter().zip(&found.picks).map(|(item, &pick)| (item.tensor, item.formats[pick])).collect()
    }

    /// Seconds per token of every choice.
    pub fn times(&self, speeds: &Speeds) -> Vec<Vec<f64>> {
        let of = |item: &Item| item.formats.iter().map(|f| speeds.seconds(item.tensor, f)).collect();
        self.items.iter().map(of).collect()
    }

    /// Size of the plan in which every tensor takes its largest candidate.
    pub fn largest(&self) -> u64 {
        self.choices.iter().map(|c| c.iter().map(|c| c.size).max().unwrap_or(0)).sum()
    }

    /// Size of the smallest plan.
    pub fn smallest(&self) -> u64 {
        knapsack::smallest(&self.choices)
    }
}

/// Divergence per error.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Factor {
    /// The same for all.
    Constant(f64),
    /// Known at two errors, the smaller one first; between them a power of the error.
    Between([(f64, f64); 2]),
}

impl Factor {
    fn new(mut points: Vec<(f64, f64)>) -> Self {
        points.retain(|(error, divergence)| *error > 0.0 && *divergence > 0.0);
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0 == b.0);
        let factor = |(error, divergence): (f64, f64)| (error, divergence / error);
        match points[..] {
            [] => Factor::Constant(0.0),
            [one] => Factor::Constant(factor(one).1),
            [a, .., b] => Factor::Between([factor(a), factor(b)]),
        }
    }

    fn at(&self, error: f64) -> f64 {
        match *self {
            Factor::Constant(factor) => factor,
            Factor::Between([(low, a), (high, b)]) => {
                let share = ((error.max(f64::MIN_POSITIVE) / low).ln() / (high / low).ln()).clamp(0.0, 1.0);
                a.powf(1.0 - share) * b.powf(share)
            }
        }
    }
}

/// Measures every tensor alone, in the formats nearest to [`PROBES`].
fn measured_factors(items: &[Item], errors: &[Errors], meter: &Meter<'_>) -> Result<Vec<Factor>> {
    let mut probes = Vec::new();
    let mut trials: Vec<Trial> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let mut taken = Vec::new();
        for bits in PROBES {
            let far = |n: &usize| (item.formats[*n].bits_per_weight() - bits).abs();
            let lossy = (0..item.formats.len()).filter(|&n| errors[i].errors[n] > 0.0);
            let Some(nearest) = lossy.min_by(|a, b| far(a).total_cmp(&far(b))) else { continue };
            if !taken.contains(&nearest) {
                taken.push(nearest);
                probes.push((i, errors[i].errors[nearest]));
                trials.push(vec![(item.tensor, item.formats[nearest])]);
            }
        }
    }
    let divergences = meter.divergences(&trials)?;
    let of = |i: usize| {
        let points = probes.iter().zip(&divergences).filter(|((item, _), _)| *item == i);
        Factor::new(points.map(|((_, error), d)| (*error, *d)).collect())
    };
    Ok((0..items.len()).map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_powers_between_two_measurements() {
        let factor = Factor::new(vec![(4.0, 8.0), (1.0, 1.0)]);
        assert_eq!(factor, Factor::Between([(1.0, 1.0), (4.0, 2.0)]));
        assert!((factor.at(2.0) - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!((factor.at(0.1), factor.at(100.0)), (1.0, 2.0));
        assert_eq!(Factor::new(vec![(4.0, 8.0), (0.0, 0.0)]).at(9.0), 2.0);
        assert_eq!(Factor::new(vec![(4.0, 0.0)]).at(9.0), 0.0, "what changes nothing costs nothing");
    }
}
