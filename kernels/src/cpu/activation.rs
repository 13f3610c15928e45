//! Activation functions, exact to f32 rounding.

use crate::Activation;

/// `activation(x)`, correct to a few units in the last place of f32 (computed in f64).
pub(super) fn activate(activation: Activation, x: f32) -> f32 {
    let v = f64::from(x);
    match activation {
        Activation::Silu => (v / (1.0 + (-v).exp())) as f32,
        // 0.5 (1 + tanh u) is the logistic function of 2u, which loses no digits where it is small.
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
            (v / (1.0 + (-2.0 * u).exp())) as f32
        }
        Activation::GeluErf => (0.5 * v * erfc(-v / std::f64::consts::SQRT_2)) as f32,
        Activation::Relu => x.max(0.0),
    }
}

/// The complementary error function to about 1e-13 relative.
///
/// Up to 2 by the series of erf (Abramowitz & Stegun 7.1.6, all terms positive), above by the continued fraction 7.1.14.
fn erfc(x: f64) -> f64 {
    let sqrt_pi = std::f64::consts::PI.sqrt();
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum, mut k) = (x, x, 0.0);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= 2.0 * x * x / (2.0 * k + 1.0);
            sum += term;
        }
        return 1.0 - 2.0 / sqrt_pi * (-x * x).exp() * sum;
    }
    let mut fraction = x;
    for k in (1..=60).rev() {
        fraction = x + f64::from(k) / 2.0 / fraction;
    }
    (-x * x).exp() / (sqrt_pi * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C library's values.
    #[test]
    fn erfc_agrees_with_known_values() {
        for (x, want) in [
            (0.0, 1.0),
            (0.5, 0.4795001221869535),
            (1.0, 0.15729920705028513),
            (1.9, 0.0072095707647425325),
            (2.0, 0.004677734981047265),
            (3.0, 2.2090496998585438e-05),
            (6.0, 2.1519736712498916e-17),
            (-1.0, 1.842700792949715),
        ] {
            let got = erfc(x);
            assert!((got - want).abs() <= 1e-11 * want.abs(), "erfc({x}) = {got}, not {want}");
        }
    }

    #[test]
    fn limits_are_right() {
        for a in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu] {
            assert_eq!(activate(a, 0.0), 0.0);
            assert_eq!(activate(a, 200.0), 200.0);
            assert_eq!(activate(a, -2000.0), 0.0);
        }
        assert!((activate(Activation::Silu, 1.0) - 0.731_058_6).abs() < 1e-7);
        assert!((activate(Activation::GeluErf, 1.0) - 0.841_344_7).abs() < 1e-7);
        assert!((activate(Activation::GeluTanh, 1.0) - 0.841_192).abs() < 1e-6);
    }
}
