//! Exponentials and what is made of them, on vectors, in f32: a few units in the last place.

use super::Simd;

/// ln 2 in two parts; the first has so few bits that products with whole numbers up to 2^8 are exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Taylor coefficients of `(e^r - 1 - r) / r^2`; within |r| <= ln 2 / 2 the first term left out, r^8 / 8!, is 5e-9.
const TAYLOR: [f32; 6] = [0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];

/// `e^x = 2^n * (1 + q)`: `(n, q)`.
#[inline(always)]
fn split<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    // Beyond these the result is 0 or infinite in any case; NaN passes through both.
    let x = s.max(s.splat(-110.0), s.min(s.splat(100.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fnma(n, s.splat(LN_2_LOW), s.fnma(n, s.splat(LN_2_HIGH), x));
    let mut sum = s.splat(TAYLOR[5]);
    for i in (0..5).rev() {
        sum = s.fma(sum, r, s.splat(TAYLOR[i]));
    }
    (n, s.fma(s.mul(r, r), sum, r))
}

/// `e^x`: 0 below -104, infinite above 88.7.
#[inline(always)]
pub(in crate::cpu) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let (n, q) = split(s, x);
    s.times_power_of_two(s.add(q, s.splat(1.0)), n)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
fn logistic<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// `x * logistic(x)`
#[inline(always)]
pub(in crate::cpu) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, logistic(s, x))
}

/// `0.5 x (1 + tanh u)`, where `0.5 (1 + tanh u)` is the logistic function of `2u`, which loses no digits where it is
/// small. `u = sqrt(2/pi) (x + 0.044715 x^3)`.
#[inline(always)]
pub(in crate::cpu) fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    const TWICE: f32 = 1.595_769; // 2 sqrt(2/pi)
    let square = s.mul(x, x);
    let u = s.mul(s.mul(x, s.splat(TWICE)), s.fma(square, s.splat(0.044715), s.splat(1.0)));
    s.mul(x, logistic(s, u))
}

/// `log(erfc(z) / t) + z^2` with `t = 1 / (1 + z/2)`, as a polynomial in `u = (t - 0.575) / 0.425`: interpolated at
/// Chebyshev nodes of t = 0.15 .. 1 (z = 0 .. 11.3, where erfc is 0 in f32); evaluated in f32 the error is 2e-7.
const ERFC: [f32; 11] = [
    -0.569_995,
    0.581_034_8,
    0.018_217_858,
    -0.031_169_264,
    -0.001_534_449,
    0.004_123_369,
    -0.000_224_995_86,
    -0.000_634_276_4,
    0.000_139_469_17,
    6.976_295e-5,
    -2.730_395_9e-5,
];

/// `x * (normal distribution function of x)`
#[inline(always)]
pub(in crate::cpu) fn gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    // -|x|, but so that its square does not overflow; the tail is 0 from there on.
    let negative = s.max(s.splat(-17.0), s.min(s.sub(s.zero(), x), x));
    let z = s.mul(negative, s.splat(-std::f32::consts::FRAC_1_SQRT_2));
    let t = s.div(one, s.fma(z, s.splat(0.5), one));
    let u = s.fma(t, s.splat(1.0 / 0.425), s.splat(-0.575 / 0.425));
    let mut log = s.splat(ERFC[10]);
    for i in (0..10).rev() {
        log = s.fma(log, u, s.splat(ERFC[i]));
    }
    // erfc(z) = t e^(log - z^2), and z^2 is x^2 / 2; the bits of the square that do not fit are not lost.
    let half = s.mul(negative, s.splat(0.5));
    let square = s.mul(half, negative);
    let lost = s.fnma(half, negative, square);
    let (n, q) = split(s, s.sub(s.zero(), square));
    let (m, p) = split(s, s.add(log, lost));
    let erfc = s.times_power_of_two(s.mul(s.mul(t, s.add(q, one)), s.add(p, one)), s.add(n, m));
    // x Phi(x) is x erfc(-x / sqrt 2) / 2 for negative x, and x minus that of -x for positive: max(x, 0) + tail.
    let tail = s.mul(half, erfc);
    s.add(s.max(x, s.zero()), tail)
}

/// `tanh(x)`, by `e^(2x) - 1` without cancellation near 0.
#[inline(always)]
pub(in crate::cpu) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond 10 it is 1 in f32.
    let x = s.max(s.splat(-10.0), s.min(s.splat(10.0), x));
    let (n, q) = split(s, s.add(x, x));
    let one = s.splat(1.0);
    let power = s.times_power_of_two(one, n);
    let minus_one = s.fma(power, q, s.sub(power, one));
    s.div(minus_one, s.add(minus_one, s.splat(2.0)))
}
