//! The distribution of a tensor's weights.

use qconv_formats::block::BlockFormat;
use rayon::prelude::*;
use serde::Serialize;

/// Weights that are decoded at a time.
const SLICE: usize = 1 << 16;

/// Moments and extremes of weights. Minimum, maximum, mean and deviation are those of the finite ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stats {
    /// Smallest.
    pub min: f32,
    /// Largest.
    pub max: f32,
    /// Mean.
    pub mean: f64,
    /// Standard deviation (of the population).
    pub std: f64,
    /// Weights that are exactly zero.
    pub zeros: u64,
    /// NaN.
    pub nan: u64,
    /// Infinite.
    pub inf: u64,
    #[serde(skip)]
    finite: u64,
}

impl Stats {
    /// Decodes and counts, in slices over all threads; the result does not depend on their number. `None` if the format
    /// holds no weights.
    pub fn of(format: &BlockFormat, bytes: &[u8]) -> Option<Self> {
        let dequantize = format.dequantize?;
        let blocks = SLICE.div_ceil(format.block_weights);
        let slices: Vec<Stats> = bytes
            .par_chunks(blocks * format.block_bytes)
            .map_init(Vec::new, |weights, bytes| {
                weights.resize(bytes.len() / format.block_bytes * format.block_weights, 0.0);
                dequantize(bytes, weights);
                Stats::of_weights(weights)
            })
            .collect();
        slices.into_iter().reduce(Stats::merge)
    }

    /// Counts plain numbers.
    pub fn of_weights(weights: &[f32]) -> Self {
        let mut s = Stats {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            mean: 0.0,
            std: 0.0,
            zeros: 0,
            nan: 0,
            inf: 0,
            finite: 0,
        };
        let mut sum = 0.0;
        for &w in weights {
            if w.is_finite() {
                s.min = s.min.min(w);
                s.max = s.max.max(w);
                s.zeros += u64::from(w == 0.0);
                s.finite += 1;
                sum += f64::from(w);
            } else if w.is_nan() {
                s.nan += 1;
            } else {
                s.inf += 1;
            }
        }
        let n = s.finite.max(1) as f64;
        s.mean = sum / n;
        let squares: f64 = weights.iter().filter(|w| w.is_finite()).map(|&w| (f64::from(w) - s.mean).powi(2)).sum();
        s.std = (squares / n).sqrt();
        s
    }

    /// Both together (Chan et al. 1979).
    fn merge(self, other: Self) -> Self {
        let (n, m) = (self.finite as f64, other.finite as f64);
        let total = (n + m).max(1.0);
        let apart = other.mean - self.mean;
        let squares = self.std * self.std * n + other.std * other.std * m + apart * apart * n * m / total;
        Stats {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            mean: (self.mean * n + other.mean * m) / total,
            std: (squares / total).sqrt(),
            zeros: self.zeros + other.zeros,
            nan: self.nan + other.nan,
            inf: self.inf + other.inf,
            finite: self.finite + other.finite,
        }
    }
}
