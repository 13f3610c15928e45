//! The feed-forward part: one network, or a router and its experts.

use super::forward::Scratch;
use super::observe::{Watch, products};
use super::weights::{Linear, Mlp};
use crate::arch::{Experts, Plan};
use qconv_kernels::{Backend, MixBuffers, Mixing, Result};

/// `out = down(act(gate(x)) * up(x))`, or `down(act(up(x)))`. `x`, `out`: `(n, width)`; `gate`, `up`: `(n, hidden)`.
#[allow(clippy::too_many_arguments)] // the buffers of one step
pub(super) fn dense<B: Backend>(
    b: &B,
    plan: &Plan,
    mlp: &Mlp<B>,
    x: &B::Buffer,
    gate: &mut B::Buffer,
    up: &mut B::Buffer,
    out: &mut B::Buffer,
    n: usize,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let hidden = match &mlp.gate {
        Some(weights) => {
            products(b, watch, x, n, [(weights, &mut *gate), (&mlp.up, &mut *up)])?;
            b.gate(plan.feed.activation, gate, up, n * mlp.hidden)?;
            gate
        }
        None => {
            products(b, watch, x, n, [(&mlp.up, &mut *up)])?;
            b.activate(plan.feed.activation, up, n * mlp.hidden)?;
            up
        }
    };
    products(b, watch, hidden, n, [(&mlp.down, out)])
}

/// Which rows go to which expert, with what weight. Filled per batch, allocated once.
#[derive(Debug, Default)]
pub(super) struct Routes {
    scores: Vec<f32>,       // (n, experts)
    rows: Vec<Vec<u32>>,    // per expert
    factors: Vec<Vec<f32>>, // per expert
    order: Vec<u32>,
}

impl Routes {
    /// For batches of up to `n` tokens.
    pub fn new(experts: Option<Experts>, n: usize) -> Self {
        let Some(experts) = experts else { return Routes::default() };
        Routes {
            scores: vec![0.0; n * experts.count],
            rows: vec![Vec::with_capacity(n); experts.count],
            factors: vec![Vec::with_capacity(n); experts.count],
            order: Vec::with_capacity(experts.count),
        }
    }

    /// Softmax over all experts, then the best `used` per token (the lower number where two are equal), their weights
    /// scaled to sum to 1 where the model does so. `self.scores` holds the router's products for `n` tokens.
    fn choose(&mut self, experts: Experts, n: usize) {
        self.rows.iter_mut().for_each(Vec::clear);
        self.factors.iter_mut().for_each(Vec::clear);
        for (row, scores) in self.scores.chunks_exact_mut(experts.count).take(n).enumerate() {
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for s in scores.iter_mut() {
                *s = (*s - max).exp();
                sum += *s;
            }
            self.order.clear();
            self.order.extend(0..experts.count as u32);
            self.order.sort_unstable_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
            let chosen = &self.order[..experts.used];
            if experts.normalize {
                sum = chosen.iter().map(|&e| scores[e as usize]).sum();
            }
            for &e in chosen {
                self.rows[e as usize].push(row as u32);
                self.factors[e as usize].push(scores[e as usize] / sum);
            }
        }
    }
}

/// How a backend that picks experts itself has to.
pub(super) fn mixing(plan: &Plan, experts: Experts) -> Mixing {
    Mixing { used: experts.used, normalize: experts.normalize, activation: plan.feed.activation }
}

/// `branch = sum over the chosen experts of weight * expert(h)`. `mixture`: the backend picks them itself, if that is its way for so many
/// tokens and nobody watches.
#[allow(clippy::too_many_arguments)] // as above
pub(super) fn experts<B: Backend>(
    b: &B,
    plan: &Plan,
    router: &Linear<B>,
    experts: &[Mlp<B>],
    mixture: Option<&B::Mixture>,
    s: &mut Scratch<B>,
    n: usize,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let Some(config) = plan.feed.experts else { unreachable!("experts were loaded because the plan has them") };
    products(b, watch, &s.h, n, [(router, &mut s.router)])?;
    if let Some(mixture) = mixture.filter(|mixture| b.mixes(mixture, n))
        && !watch.somebody()
    {
        let Scratch { h, router, picks, gate, up, expert, branch, .. } = s;
        return b.mix(mixture, router, h, n, MixBuffers { picks, gate, up, each: expert }, branch);
    }
    b.read(&s.router, &mut s.routes.scores[..n * config.count])?;
    s.routes.choose(config, n);
    // Zeroes: scaling by 0 would keep the infinities of a broken batch.
    s.rows.clear();
    s.rows.resize(n, 0);
    b.gather(&s.zero, &s.rows, plan.width, &mut s.branch)?;
    for ((expert, rows), factors) in experts.iter().zip(&s.routes.rows).zip(&s.routes.factors) {
        if rows.is_empty() {
            continue;
        }
        b.gather(&s.h, rows, plan.width, &mut s.normed)?;
        dense(b, plan, expert, &s.normed, &mut s.gate, &mut s.up, &mut s.expert, rows.len(), watch)?;
        b.scatter_add(&s.expert, rows, factors, plan.width, &mut s.branch)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_take_the_best_experts_and_share_their_weight() {
        let experts = Experts { count: 4, used: 2, normalize: true };
        let mut routes = Routes::new(Some(experts), 2);
        routes.scores.copy_from_slice(&[1.0, 3.0, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0]);
        routes.choose(experts, 2);
        assert_eq!(routes.rows, [vec![1], vec![0, 1], vec![0], vec![]]);
        let (a, b) = (routes.factors[1][0], routes.factors[2][0]);
        assert!((a - 0.731_058_6).abs() < 1e-6 && (a + b - 1.0).abs() < 1e-6, "sigmoid(1) and the rest: {a} {b}");
        assert_eq!(routes.factors[0], [0.5]);
    }

    #[test]
    fn without_normalization_weights_are_those_of_the_whole_softmax() {
        let experts = Experts { count: 4, used: 1, normalize: false };
        let mut routes = Routes::new(Some(experts), 1);
        routes.scores.copy_from_slice(&[0.0, 0.0, 0.0, 0.0]);
        routes.choose(experts, 1);
        assert_eq!(routes.factors[0], [0.25]);
    }
}
