//! How far a model's predictions are from its original's, with llama-perplexity's definitions (`--kl-divergence`).
//!
//! One difference: llama-perplexity keeps the original's log-probabilities in 16 bits and leaves out tokens below
//! `exp(-16)`; here both models run side by side, so that nothing is rounded or left out.

use super::statistics::{Sums, log_sum_exp, percentile};
use serde::{Deserialize, Serialize};

/// The comparison of two models on the same scored tokens. Probabilities and shares are fractions, not percents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Perplexity of the original.
    pub base_perplexity: f64,
    /// Its standard error.
    pub base_perplexity_error: f64,
    /// Perplexity over the original's.
    pub perplexity_ratio: f64,
    /// Its standard error (both models see the same tokens, so that it is far smaller than the perplexities').
    pub perplexity_ratio_error: f64,
    /// Mean Kullback-Leibler divergence of the original's distribution from the model's, in nats.
    pub kl_divergence: f64,
    /// Its standard error.
    pub kl_divergence_error: f64,
    /// Median over tokens.
    pub kl_divergence_median: f64,
    /// 99 of 100 tokens lie below it.
    pub kl_divergence_99: f64,
    /// The worst token.
    pub kl_divergence_max: f64,
    /// Share of tokens where both models think the same token most likely.
    pub top1_agreement: f64,
    /// Its standard error.
    pub top1_agreement_error: f64,
    /// Mean change of the right token's probability (negative: the model got worse).
    pub mean_probability_change: f64,
    /// Its standard error.
    pub mean_probability_change_error: f64,
    /// Root of the mean squared change.
    pub rms_probability_change: f64,
    /// Its standard error.
    pub rms_probability_change_error: f64,
}

/// What one scored token gives.
#[derive(Debug, Clone, Copy, Default)]
pub struct PairStatistics {
    /// Negative log-likelihood of the right token under the model.
    pub nll: f64,
    /// Under the original.
    pub base_nll: f64,
    /// Divergence at this token.
    pub kl: f64,
    /// Same most likely token.
    pub same_top: bool,
}

impl PairStatistics {
    /// From the logits of both models and the right token.
    pub fn new(logits: &[f32], base: &[f32], token: usize) -> Self {
        let ((sum, top), (base_sum, base_top)) = (log_sum_exp(logits), log_sum_exp(base));
        let offset = sum - base_sum;
        let kl: f64 = logits
            .iter()
            .zip(base)
            .map(|(&x, &b)| {
                let p = (b - base_sum as f32).exp();
                // A token that the original excludes adds nothing; the product would be 0 * infinity.
                if p == 0.0 { 0.0 } else { f64::from(p) * (f64::from(b) - f64::from(x) + offset) }
            })
            .sum();
        PairStatistics {
            nll: sum - f64::from(logits[token]),
            base_nll: base_sum - f64::from(base[token]),
            kl,
            same_top: top == base_top,
        }
    }
}

/// Collects [`PairStatistics`].
#[derive(Debug, Default)]
pub(super) struct Pairs {
    base: Sums,
    log_ratio: Sums,
    kl: Sums,
    change: Sums,
    change_squared: Sums,
    same_top: usize,
    kls: Vec<f64>,
}

impl Pairs {
    pub fn add(&mut self, pair: &PairStatistics) {
        self.base.add(pair.base_nll);
        // Differences of pairs: the same figure as from variances and covariance, without their cancellation.
        self.log_ratio.add(pair.nll - pair.base_nll);
        self.kl.add(pair.kl);
        self.kls.push(pair.kl);
        let change = (-pair.nll).exp() - (-pair.base_nll).exp();
        self.change.add(change);
        self.change_squared.add(change * change);
        self.same_top += usize::from(pair.same_top);
    }

    pub fn finish(mut self) -> Divergence {
        self.kls.sort_unstable_by(f64::total_cmp);
        let n = self.kl.count;
        let base = self.base.exp();
        let ratio = self.log_ratio.exp();
        let kl = self.kl.estimate();
        let change = self.change.estimate();
        let mean_square = self.change_squared.estimate();
        let rms = mean_square.value.sqrt();
        let same = self.same_top as f64 / n as f64;
        Divergence {
            base_perplexity: base.value,
            base_perplexity_error: base.error,
            perplexity_ratio: ratio.value,
            perplexity_ratio_error: ratio.error,
            kl_divergence: kl.value,
            kl_divergence_error: kl.error,
            kl_divergence_median: percentile(&self.kls, 0.5),
            kl_divergence_99: percentile(&self.kls, 0.99),
            kl_divergence_max: self.kls.last().copied().unwrap_or(f64::NAN),
            top1_agreement: same,
            top1_agreement_error: (same * (1.0 - same) / (n.max(2) - 1) as f64).sqrt(),
            mean_probability_change: change.value,
            mean_probability_change_error: change.error,
            rms_probability_change: rms,
            rms_probability_change_error: if rms > 0.0 { 0.5 / rms * mean_square.error } else { 0.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let logits = [0.3, -2.0, 5.0, 1.0];
        let pair = PairStatistics::new(&logits, &logits, 3);
        assert_eq!(pair.kl, 0.0);
        assert!(pair.same_top);
        assert_eq!(pair.nll, pair.base_nll);
        let shifted = logits.map(|x| x + 3.0);
        assert!(PairStatistics::new(&shifted, &logits, 3).kl.abs() < 1e-6, "a constant changes nothing");
    }

    #[test]
    fn divergence_of_two_coins() {
        let fair = [0.0, 0.0];
        let loaded = [0.0, 3.0f32.ln()]; // 1/4, 3/4
        let pair = PairStatistics::new(&loaded, &fair, 1);
        // 1/2 ln(1/2 : 1/4) + 1/2 ln(1/2 : 3/4)
        assert!((pair.kl - (0.5 * 2.0f64.ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-7);
        assert!((pair.nll + 0.75f64.ln()).abs() < 1e-7 && (pair.base_nll - 2.0f64.ln()).abs() < 1e-7);
    }

    #[test]
    fn excluded_tokens_add_nothing() {
        let pair = PairStatistics::new(&[0.0, -1000.0], &[0.0, f32::NEG_INFINITY], 0);
        assert_eq!(pair.kl, 0.0);
    }

    #[test]
    fn summary_of_known_pairs() {
        let mut pairs = Pairs::default();
        for (nll, base_nll, kl, same_top) in [(1.0, 1.0, 0.0, true), (2.0, 1.0, 0.2, false)] {
            pairs.add(&PairStatistics { nll, base_nll, kl, same_top });
        }
        let d = pairs.finish();
        assert!((d.kl_divergence - 0.1).abs() < 1e-12 && (d.kl_divergence_median - 0.1).abs() < 1e-12);
        assert_eq!(d.kl_divergence_max, 0.2);
        assert_eq!(d.top1_agreement, 0.5);
        assert!((d.top1_agreement_error - 0.5).abs() < 1e-12);
        assert!((d.perplexity_ratio - 0.5f64.exp()).abs() < 1e-12);
        let change = (-2.0f64).exp() - (-1.0f64).exp();
        assert!((d.mean_probability_change - change / 2.0).abs() < 1e-12);
        assert!((d.rms_probability_change - (change * change / 2.0).sqrt()).abs() < 1e-12);
    }
}
