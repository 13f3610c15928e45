//! Rotary frequencies, computed in f64 and rounded once.
//!
//! Sources: Su et al. 2021 (RoPE), Peng et al. 2023 (YaRN, section 3.2 and 3.4), Ding et al. 2024 (LongRoPE). llama 3's
//! scaling comes as divisors in a tensor and needs no code here.

use super::weights::RopeFactors;
use crate::arch::{Plan, RopePlan, RopeScaling};
use qconv_kernels::Rope;

/// The rotations of a model's layers.
pub(super) struct Ropes {
    /// Layers that see everything.
    pub global: Rope,
    /// Layers with a window, where they differ.
    pub window: Option<Rope>,
    /// Layers that are not rotated: all angles are zero.
    still: Option<Rope>,
}

impl Ropes {
    /// For a session of `positions`; LongRoPE chooses its factors by them. `None` for models without RoPE.
    pub fn new(plan: &Plan, factors: &RopeFactors, positions: usize) -> Option<Self> {
        let rope = plan.rope.as_ref()?;
        let long = matches!(rope.scaling, RopeScaling::Long { original, .. } if positions > original);
        let by_context = if long { &factors.long } else { &factors.short };
        let divisors = factors.always.as_ref().or(by_context.as_ref());
        let global = scaled(rope, divisors.map(Vec::as_slice), plan.context);
        let window = rope.window_base.map(|base| Rope {
            style: rope.style,
            frequencies: frequencies(base, rope.dims).map(|f| f as f32).collect(),
            magnitude: 1.0,
        });
        let still = rope.rotated.as_ref().map(|_| Rope {
            style: rope.style,
            frequencies: vec![0.0; rope.dims / 2],
            magnitude: 1.0,
        });
        Some(Ropes { global, window, still })
    }

    /// The rotation of one layer.
    pub fn of(&self, plan: &Plan, layer: usize) -> &Rope {
        let rotated = plan.rope.as_ref().and_then(|r| r.rotated.as_ref()?.get(layer).copied()).unwrap_or(true);
        match (&self.still, &self.window) {
            (Some(still), _) if !rotated => still,
            (_, Some(rope)) if plan.window_of(layer).is_some() => rope,
            _ => &self.global,
        }
    }
}

/// `base^(-2i / dims)`.
fn frequencies(base: f32, dims: usize) -> impl Iterator<Item = f64> {
    (0..dims / 2).map(move |i| f64::from(base).powf(-2.0 * i as f64 / dims as f64))
}

fn scaled(rope: &RopePlan, divisors: Option<&[f32]>, context: usize) -> Rope {
    let mut angles: Vec<f64> = frequencies(rope.base, rope.dims).collect();
    if let Some(divisors) = divisors {
        angles.iter_mut().zip(divisors).for_each(|(a, &d)| *a /= f64::from(d));
    }
    let magnitude = match rope.scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear { factor } => {
            angles.iter_mut().for_each(|a| *a /= f64::from(factor));
            1.0
        }
        RopeScaling::Yarn { factor, original, attention, beta_fast, beta_slow } => {
            let base = f64::from(rope.base);
            let low = pair_that_turns(beta_fast, original, base, rope.dims).floor().max(0.0);
            let high = pair_that_turns(beta_slow, original, base, rope.dims).ceil().min(rope.dims as f64 - 1.0);
            for (i, angle) in angles.iter_mut().enumerate() {
                // 1 where the pair turns so slowly that its positions are interpolated, 0 where it stays.
                let slow = ((i as f64 - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
                *angle *= slow / f64::from(factor) + (1.0 - slow);
            }
            attention.map_or_else(|| if factor > 1.0 { 0.1 * f64::from(factor).ln() + 1.0 } else { 1.0 }, f64::from)
        }
        RopeScaling::Long { original, attention } => {
            let stretch = context as f64 / original as f64;
            attention.map_or_else(
                || if stretch > 1.0 { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() } else { 1.0 },
                f64::from,
            )
        }
    };
    Rope { style: rope.style, frequencies: angles.into_iter().map(|a| a as f32).collect(), magnitude: magnitude as f32 }
}

/// The pair of dimensions (as a real number) that makes `turns` rotations over `positions`.
fn pair_that_turns(turns: f32, positions: usize, base: f64, dims: usize) -> f64 {
    let ratio = positions as f64 / (f64::from(turns) * 2.0 * std::f64::consts::PI);
    dims as f64 * ratio.ln() / (2.0 * base.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use qconv_kernels::RopeStyle;

    fn plan(scaling: RopeScaling) -> RopePlan {
        RopePlan { style: RopeStyle::Neox, dims: 64, base: 10000.0, scaling, window_base: None, rotated: None }
    }

    #[test]
    fn plain_frequencies_fall_from_one_to_the_inverse_base() {
        let rope = scaled(&plan(RopeScaling::None), None, 512);
        assert_eq!(rope.frequencies.len(), 32);
        assert_eq!(rope.frequencies[0], 1.0);
        assert!((rope.frequencies[16] - 0.01).abs() < 1e-9);
        assert_eq!(rope.magnitude, 1.0);
    }

    #[test]
    fn linear_scaling_and_divisors_divide() {
        let rope = scaled(&plan(RopeScaling::Linear { factor: 4.0 }), Some(&[2.0; 32]), 512);
        assert_eq!(rope.frequencies[0], 0.125);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_interpolates_slow_ones() {
        let yarn = RopeScaling::Yarn { factor: 4.0, original: 32768, attention: None, beta_fast: 32.0, beta_slow: 1.0 };
        let (rope, without) = (scaled(&plan(yarn), None, 131072), scaled(&plan(RopeScaling::None), None, 131072));
        assert_eq!(rope.frequencies[0], without.frequencies[0]);
        assert!((rope.frequencies[31] * 4.0 - without.frequencies[31]).abs() < 1e-9);
        // 32 turns in 32768 positions: 163 = 10000^(i/32), i = 17.7; 1 turn: 5215, i = 29.7. Pair 23 is in between:
        // (23 - 17) / (30 - 17) = 0.4615 interpolated.
        let mix = 0.461_538 / 4.0 + 0.538_462;
        assert!((rope.frequencies[23] / without.frequencies[23] - mix).abs() < 1e-5);
        assert!((rope.magnitude - 1.138_629_4).abs() < 1e-6);
    }

    #[test]
    fn longrope_magnitude_follows_the_stretch() {
        let rope = scaled(&plan(RopeScaling::Long { original: 4096, attention: None }), None, 131072);
        assert!((rope.magnitude - 1.190_238).abs() < 1e-5); // sqrt(1 + ln 32 / ln 4096)
    }
}
