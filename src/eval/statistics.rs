//! Means with their standard errors, as llama-perplexity defines them.

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// Sums from which an [`Estimate`] follows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub count: usize,
    pub sum: f64,
    pub squares: f64,
}

impl Sums {
    pub fn add(&mut self, x: f64) {
        self.count += 1;
        self.sum += x;
        self.squares += x * x;
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Standard error of the mean: `sqrt((mean(x^2) - mean(x)^2) / (n - 1))`; 0 for a single value.
    pub fn error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = self.squares / self.count as f64 - self.mean().powi(2);
        (variance.max(0.0) / (self.count - 1) as f64).sqrt()
    }

    pub fn estimate(&self) -> Estimate {
        Estimate { value: self.mean(), error: self.error() }
    }

    /// `exp(mean)`, its error by propagation.
    pub fn exp(&self) -> Estimate {
        let value = self.mean().exp();
        Estimate { value, error: self.error() * value }
    }
}

/// `log(sum(exp(logits)))` and the index of the largest logit (the first of equals). Exponentials in f32, the sum in f64,
/// as llama-perplexity does.
pub fn log_sum_exp(logits: &[f32]) -> (f64, usize) {
    let max = largest(logits);
    let top = logits.iter().position(|x| *x == max).unwrap_or(0);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
    (f64::from(max) + sum.ln(), top)
}

/// The largest number, NaN passed over (a sum of exponentials shows it). In lanes, which become vectors: one number after the
/// other took three times as long as the exponentials.
fn largest(x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane = larger(*lane, *x));
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// Log-probability of a token.
pub fn log_softmax(logits: &[f32], token: usize) -> f64 {
    f64::from(logits[token]) - log_sum_exp(logits).0
}

/// The value below which `fraction` of sorted values lie, interpolated.
pub(super) fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = fraction * last as f64;
    let low = (at as usize).min(last);
    let part = at - low as f64;
    (1.0 - part) * sorted[low] + part * sorted[(low + 1).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_mean_and_standard_error() {
        let mut s = Sums::default();
        [1.0, 2.0, 3.0, 4.0].iter().for_each(|&x| s.add(x));
        assert_eq!(s.mean(), 2.5);
        // Variance 1.25 over n, 3 degrees of freedom.
        assert!((s.error() - (1.25f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Sums { count: 1, sum: 3.0, squares: 9.0 }.error(), 0.0);
    }

    #[test]
    fn log_softmax_is_stable() {
        let p = log_softmax(&[1000.0, 1000.0, -1000.0], 1);
        assert!((p + 2.0f64.ln()).abs() < 1e-9);
        assert_eq!(log_sum_exp(&[1.0, 5.0, 5.0]).1, 1);
        for len in [1, 15, 16, 17, 40] {
            for top in 0..len {
                let mut logits: Vec<f32> = (0..len).map(|i| -1.0 - i as f32).collect();
                logits[top] = -0.5;
                assert_eq!((largest(&logits), log_sum_exp(&logits).1), (-0.5, top));
                logits[len - 1 - top] = f32::NAN;
                assert!(log_sum_exp(&logits).0.is_nan(), "NaN does not pass unseen");
            }
        }
    }

    #[test]
    fn percentiles_interpolate() {
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(percentile(&[1.0, 2.0, 4.0], 1.0), 4.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
