//! From logits to the next token.

use super::rng::Rng;
use std::collections::VecDeque;

/// How the next token is chosen. Steps in this order (llama.cpp's): repeat penalty, top-k, top-p, min-p, temperature, draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the best token.
    pub temperature: f32,
    /// Only the best k tokens; 0 for all.
    pub top_k: usize,
    /// Only the best tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens with at least this share of the best one's probability; 0 for all.
    pub min_p: f32,
    /// Logits of recent tokens are divided by it where positive, multiplied where negative (Keskar et al. 2019); 1 for none.
    pub repeat_penalty: f32,
    /// How many tokens are recent.
    pub repeat_last: usize,
}

impl Default for Sampling {
    /// llama.cpp's defaults.
    fn default() -> Self {
        Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, repeat_last: 64 }
    }
}

/// A [`Sampling`] with its random state and memory. The same seed and logits give the same tokens everywhere.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    rng: Rng,
    recent: VecDeque<u32>,
    candidates: Vec<(u32, f32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// Begins a sequence.
    pub fn new(sampling: Sampling, seed: u64) -> Self {
        let recent = VecDeque::with_capacity(sampling.repeat_last + 1);
        Sampler { sampling, rng: Rng::new(seed), recent, candidates: Vec::new(), weights: Vec::new() }
    }

    /// Tells the sampler of a token that is part of the text now (of the prompt, or just sampled).
    pub fn accept(&mut self, token: u32) {
        self.recent.push_back(token);
        if self.recent.len() > self.sampling.repeat_last {
            self.recent.pop_front();
        }
    }

    /// Whether the next token is the one with the largest logit, whatever came before: then nobody needs the logits.
    pub fn is_greedy(&self) -> bool {
        self.sampling.temperature <= 0.0 && self.sampling.repeat_penalty == 1.0
    }

    /// The next token. `None` if the logits hold NaN or nothing finite: the model is broken.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, min_p, repeat_penalty, .. } = self.sampling;
        if logits.iter().any(|x| x.is_nan() || *x == f32::INFINITY) {
            return None;
        }
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().map(|(i, &x)| (i as u32, x)));
        if repeat_penalty != 1.0 {
            for (i, &token) in self.recent.iter().enumerate() {
                let first = self.recent.iter().take(i).all(|&t| t != token);
                if let Some((_, x)) = self.candidates.get_mut(token as usize).filter(|_| first) {
                    *x = if *x > 0.0 { *x / repeat_penalty } else { *x * repeat_penalty };
                }
            }
        }
        if temperature <= 0.0 {
            let best = self.candidates.iter().copied().reduce(|best, c| if c.1 > best.1 { c } else { best })?;
            return best.1.is_finite().then_some(best.0);
        }
        // Best first; equal ones by their number, so that the order never depends on the sorting algorithm.
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k - 1, order);
            self.candidates.truncate(top_k);
        }
        self.candidates.sort_unstable_by(order);
        let best = self.candidates.first()?.1;
        if !best.is_finite() {
            return None;
        }
        self.keep_top_p(best, top_p);
        if min_p > 0.0 {
            let least = best + min_p.ln();
            self.candidates.retain(|c| c.1 >= least);
        }
        self.draw(best, temperature)
    }

    /// The shortest run of best candidates whose probability (at temperature 1) reaches `top_p`.
    fn keep_top_p(&mut self, best: f32, top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.1 - best).exp()).sum();
        let mut sum = 0.0;
        let enough = self.candidates.iter().position(|c| {
            sum += f64::from(c.1 - best).exp();
            sum >= f64::from(top_p) * total
        });
        if let Some(last) = enough {
            self.candidates.truncate(last + 1);
        }
    }

    fn draw(&mut self, best: f32, temperature: f32) -> Option<u32> {
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|c| (f64::from(c.1 - best) / f64::from(temperature)).exp()));
        let total: f64 = self.weights.iter().sum();
        let mut left = self.rng.unit() * total;
        for (candidate, weight) in self.candidates.iter().zip(&self.weights) {
            left -= weight;
            if left < 0.0 {
                return Some(candidate.0);
            }
        }
        self.candidates.last().map(|c| c.0) // the sum's rounding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Sampling =
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, repeat_last: 64 };

    /// How often each token is drawn in `n` draws.
    fn counts(sampling: Sampling, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling, 42);
        let mut counts = vec![0; logits.len()];
        (0..n).for_each(|_| counts[sampler.sample(logits).unwrap() as usize] += 1);
        counts
    }

    #[test]
    fn greedy_takes_the_best_and_the_first_of_equals() {
        let greedy = Sampling { temperature: 0.0, ..OFF };
        assert_eq!(Sampler::new(greedy, 1).sample(&[0.0, 2.0, 2.0, -1.0]), Some(1));
        assert_eq!(Sampler::new(greedy, 1).sample(&[-5.0, f32::NEG_INFINITY, -4.0]), Some(2));
    }

    #[test]
    fn plain_sampling_follows_the_softmax() {
        let got = counts(OFF, &[0.0, (3.0f32).ln(), f32::NEG_INFINITY], 20_000);
        assert_eq!(got[2], 0);
        let share = got[1] as f64 / 20_000.0;
        assert!((share - 0.75).abs() < 0.01, "{share}");
    }

    #[test]
    fn temperature_sharpens() {
        let got = counts(Sampling { temperature: 0.5, ..OFF }, &[0.0, (3.0f32).ln()], 20_000);
        let share = got[1] as f64 / 20_000.0;
        assert!((share - 0.9).abs() < 0.01, "9 : 1, got {share}");
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
        let drawn = |s: Sampling| counts(s, &logits, 5000).iter().filter(|&&n| n > 0).count();
        assert_eq!(drawn(OFF), 4);
        assert_eq!(drawn(Sampling { top_k: 2, ..OFF }), 2);
        assert_eq!(drawn(Sampling { top_p: 0.65, ..OFF }), 2);
        assert_eq!(drawn(Sampling { top_p: 0.75, ..OFF }), 3);
        assert_eq!(drawn(Sampling { top_p: 0.0, ..OFF }), 1);
        assert_eq!(drawn(Sampling { min_p: 0.45, ..OFF }), 3);
        assert_eq!(drawn(Sampling { min_p: 1.0, ..OFF }), 1);
    }

    #[test]
    fn repeated_tokens_are_penalized_once_and_forgotten() {
        let greedy = Sampling { temperature: 0.0, repeat_penalty: 2.0, repeat_last: 2, ..OFF };
        let mut sampler = Sampler::new(greedy, 1);
        let logits = [3.0, 2.0, -1.0];
        sampler.accept(0);
        sampler.accept(0);
        assert_eq!(sampler.sample(&logits), Some(1), "3 / 2 is less than 2");
        sampler.accept(1);
        assert_eq!(sampler.sample(&logits), Some(0), "both halved");
        sampler.accept(1);
        assert_eq!(sampler.sample(&[1.5, 2.0, -1.0]), Some(0), "0 is forgotten, 1 is halved");
        assert_eq!(sampler.sample(&[-9.0, -1.0, -1.5]), Some(2), "negative logits are multiplied");
    }

    #[test]
    fn the_seed_decides_the_text() {
        let run = |seed| {
            let mut sampler = Sampler::new(OFF, seed);
            (0..50).map(|_| sampler.sample(&[0.1, 0.2, 0.3, 0.4]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        // Part of the promise: these do not change between versions.
        assert_eq!(run(1)[..8], GOLDEN);
    }

    const GOLDEN: [u32; 8] = [0, 1, 3, 1, 3, 1, 0, 2];

    #[test]
    fn broken_logits_are_told() {
        assert_eq!(Sampler::new(OFF, 1).sample(&[0.0, f32::NAN]), None);
        assert_eq!(Sampler::new(OFF, 1).sample(&[f32::NEG_INFINITY; 3]), None);
        assert_eq!(Sampler::new(OFF, 1).sample(&[f32::INFINITY, 0.0]), None);
        assert_eq!(Sampler::new(OFF, 1).sample(&[]), None);
    }
}
