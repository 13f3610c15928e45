//! What is looked at while the text runs: which weights share their inputs, and the products of these.

use crate::calibrate::Hessian;
use crate::engine::{Inputs, Observer};
use std::collections::{BTreeMap, BTreeSet};

/// Which weights share their inputs, in the order of their use.
#[derive(Default)]
pub(super) struct Order(pub Vec<Vec<String>>);

impl Observer for Order {
    fn wants(&self, _: &str) -> bool {
        true
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let names: Vec<String> = inputs.weights.iter().map(|n| (*n).to_owned()).collect();
        // Every expert shows the same stacks.
        if !self.0.contains(&names) {
            self.0.push(names);
        }
    }
}

/// Hessians of some weights, one per matrix of a stack.
#[derive(Default)]
pub(super) struct Hessians {
    wanted: BTreeSet<String>,
    /// Weights whose products nothing depends on that is wanted.
    pub(super) idle: BTreeSet<String>,
    shared: BTreeMap<String, String>,
    sums: BTreeMap<String, Vec<Hessian>>,
    /// What is shown now is what the original model has in place of the inputs before.
    pub(super) originals: bool,
    /// What is idle is computed all the same: the states behind it are wanted.
    pub(super) through: bool,
    before: Vec<f32>,
}

impl Hessians {
    pub(super) fn wanting<S: AsRef<str>>(weights: &[S]) -> Self {
        Hessians { wanted: weights.iter().map(|w| w.as_ref().to_owned()).collect(), ..Hessians::default() }
    }

    pub(super) fn of(&self, name: &str) -> &[Hessian] {
        self.shared.get(name).and_then(|first| self.sums.get(first)).map_or(&[], Vec::as_slice)
    }
}

impl Observer for Hessians {
    fn wants(&self, weight: &str) -> bool {
        self.wanted.contains(weight)
    }

    fn leads_on(&self, weight: &str) -> bool {
        self.through || !self.idle.contains(weight)
    }

    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let first = inputs.weights[0];
        for name in inputs.weights {
            self.shared.entry((*name).to_owned()).or_insert_with(|| first.to_owned());
        }
        let sums = self.sums.entry(first.to_owned()).or_default();
        let at = inputs.expert.unwrap_or(0);
        if self.originals {
            // The models route tokens differently: only what all tokens go through can be compared.
            if inputs.expert.is_none() {
                sums[at].add_drift(&self.before, inputs.rows);
            }
            return;
        }
        if inputs.expert.is_none() {
            self.before.clear();
            self.before.extend_from_slice(inputs.rows);
        }
        while sums.len() <= at {
            sums.push(Hessian::new(inputs.cols));
        }
        sums[at].add(inputs.rows);
    }
}
