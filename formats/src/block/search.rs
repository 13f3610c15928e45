//! Searches for scales, minimums and codes of a few weights: the arithmetic that the reference bytes stand on.
//!
//! Every function repeats ggml's IEEE single precision operations in ggml's order, without fused multiply-add, so that each
//! rounding falls the same way. That is why sums are sequential, why divisions are not turned into multiplications, and
//! why conversions to integers follow x86 where C leaves them undefined.
//!
//! Sources: `ggml-quants.c` of llama.cpp (MIT), functions named at each search.

/// Below this magnitude a group counts as all zero.
pub(super) const ALL_ZERO: f32 = 1e-15;

/// Nearest integer, ties to even, by adding `1.5 * 2^23` and reading the low mantissa bits.
///
/// Right for `|x| < 2^22`; outside, and for NaN, the result is the same arbitrary number that ggml gets.
#[inline]
pub(super) fn nearest(x: f32) -> i32 {
    let shifted = x + 12_582_912.0;
    (shifted.to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Float to integer as `cvttss2si` does it: towards zero; `i32::MIN` for NaN and what does not fit.
#[inline]
pub(super) fn truncate(x: f32) -> i32 {
    if (-2_147_483_648.0..2_147_483_648.0).contains(&x) { x as i32 } else { i32::MIN }
}

/// The larger one; the second where they do not compare (a C macro's behaviour, unlike [`f32::max`]).
#[inline]
pub(super) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Largest magnitude by [`max`].
pub(super) fn largest_magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |a, v| max(a, v.abs()))
}

/// The first weight of largest magnitude, with its sign; 0 if there is none above 0.
pub(super) fn extreme(x: &[f32]) -> f32 {
    let (mut magnitude, mut signed) = (0.0, 0.0);
    for &v in x {
        if v.abs() > magnitude {
            magnitude = v.abs();
            signed = v;
        }
    }
    signed
}

/// Sum of squares, from left to right.
pub(super) fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |s, v| s + v * v)
}

/// `importance * sqrt(sigma2 + x^2)`: how much a weight's error counts.
pub(super) fn importance_weights<const N: usize>(x: &[f32], importance: &[f32], sigma2: f32) -> [f32; N] {
    let mut weights = [0.0; N];
    for ((w, &x), &i) in weights.iter_mut().zip(x).zip(importance) {
        *w = i * (sigma2 + x * x).sqrt();
    }
    weights
}

/// Scale and codes of `x ~ scale * (code - half)`, codes in `0 .. 2 * half`: `make_qx_quants`.
///
/// Tries 19 scales around the one that takes the extreme weight to `-half`, and keeps the least-squares scale of the best.
/// Errors are weighted with `weights`, or with `x^2` where there are none.
pub(super) fn symmetric(x: &[f32], half: i32, weights: Option<&[f32]>, codes: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < ALL_ZERO {
        codes.fill(0);
        return 0.0;
    }
    let code = |inverse: f32, x: f32| nearest(inverse * x).min(half - 1).max(-half);
    let weight = |i: usize| weights.map_or_else(|| x[i] * x[i], |w| w[i]);
    // Least squares for the codes that this inverse scale gives: (sum of w x l, sum of w l^2).
    let sums = |inverse: f32| {
        let (mut lx, mut l2) = (0.0f32, 0.0f32);
        for (i, &v) in x.iter().enumerate() {
            let l = code(inverse, v) as f32;
            let w = weight(i);
            lx += w * v * l;
            l2 += w * l * l;
        }
        (lx, l2)
    };

    let mut inverse = -half as f32 / extreme;
    let (lx, l2) = sums(inverse);
    let mut scale = if l2 != 0.0 { lx / l2 } else { 0.0 };
    let mut best = scale * lx;
    for step in (-9..=9).filter(|&s| s != 0) {
        let candidate = -(half as f32 + 0.1 * step as f32) / extreme;
        let (lx, l2) = sums(candidate);
        if l2 > 0.0 && lx * lx > best * l2 {
            inverse = candidate;
            scale = lx / l2;
            best = scale * lx;
        }
    }
    for (c, &v) in codes.iter_mut().zip(x) {
        *c = (code(inverse, v) + half) as u8;
    }
    scale
}

/// As [`symmetric`] with weights `x^2`, but improves one code after the other: `make_q3_quants`.
pub(super) fn symmetric_by_descent(x: &[f32], half: i32, codes: &mut [u8]) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < ALL_ZERO {
        codes.fill(0);
        return 0.0;
    }
    let clamp = |l: i32| l.min(half - 1).max(-half);
    let inverse = -half as f32 / extreme;
    let mut levels = [0i32; 16]; // (x.len())
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for (level, &v) in levels.iter_mut().zip(x) {
        *level = clamp(nearest(inverse * v));
        let (w, l) = (v * v, *level as f32);
        lx += w * v * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (level, &v) in levels.iter_mut().zip(x) {
            let (w, old) = (v * v, *level as f32);
            let mut without_lx = lx - w * v * old;
            if without_lx <= 0.0 || without_lx.is_nan() {
                continue;
            }
            let mut without_l2 = l2 - w * old * old;
            let candidate = clamp(nearest(v * without_l2 / without_lx));
            if candidate == *level {
                continue;
            }
            let new = candidate as f32;
            without_lx += w * v * new;
            without_l2 += w * new * new;
            if without_l2 > 0.0 && without_lx * without_lx * l2 > lx * lx * without_l2 {
                *level = candidate;
                lx = without_lx;
                l2 = without_l2;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    for (c, level) in codes.iter_mut().zip(levels) {
        *c = (level + half) as u8;
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}

/// Which scales [`affine`] tries: `(highest - minimum) / (top + from + step * i)` for `i` in `0 ..= last`.
pub(super) struct Sweep {
    pub(super) from: f32,
    pub(super) step: f32,
    pub(super) last: i32,
    /// Errors count by magnitude instead of square.
    pub(super) absolute: bool,
}

impl Sweep {
    /// The sweep of all affine formats when importance is given.
    pub(super) const FINE: Sweep = Sweep { from: -0.9, step: 0.05, last: 36, absolute: false };
}

/// Scale, minimum and codes of `x ~ scale * code - minimum`, codes in `0 ..= top`: `make_qkx2_quants` and
/// `make_qkx3_quants`, which agree wherever ggml calls them. Returns `(scale, minimum)`; the minimum is never negative.
///
/// Up to 32 weights.
pub(super) fn affine(x: &[f32], top: i32, weights: &[f32], sweep: &Sweep, codes: &mut [u8]) -> (f32, f32) {
    let (mut low, mut high) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for (&v, &w) in x.iter().zip(weights).skip(1) {
        if v < low {
            low = v;
        }
        if v > high {
            high = v;
        }
        sum_w += w;
        sum_x += w * v;
    }
    if low > 0.0 {
        low = 0.0;
    }
    if high == low {
        codes.fill(0);
        return (0.0, -low);
    }
    let code = |inverse: f32, minimum: f32, v: f32| nearest(inverse * (v - minimum)).min(top).max(0) as u8;
    let error = |scale: f32, minimum: f32, codes: &[u8]| {
        let mut sum = 0.0f32;
        for ((&v, &w), &c) in x.iter().zip(weights).zip(codes) {
            let difference = scale * c as f32 + minimum - v;
            sum += w * if sweep.absolute { difference.abs() } else { difference * difference };
        }
        sum
    };

    let inverse = top as f32 / (high - low);
    let mut scale = 1.0 / inverse;
    let mut minimum = low;
    for (c, &v) in codes.iter_mut().zip(x) {
        *c = code(inverse, low, v);
    }
    let mut best = error(scale, minimum, codes);
    let mut trial = [0u8; 32];
    let trial = &mut trial[..x.len()];
    for i in 0..=sweep.last {
        // Each candidate starts from the best minimum so far, not from the lowest weight.
        let inverse = (sweep.from + sweep.step * i as f32 + top as f32) / (high - minimum);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((t, &v), &w) in trial.iter_mut().zip(x).zip(weights) {
            *t = code(inverse, minimum, v);
            let l = *t as f32;
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * v;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_minimum > 0.0 {
                this_minimum = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let this_error = error(this_scale, this_minimum, trial);
            if this_error < best {
                codes.copy_from_slice(trial);
                best = this_error;
                scale = this_scale;
                minimum = this_minimum;
            }
        }
    }
    (scale, -minimum)
}

/// Scale and codes of `x ~ scale * code` for what should not be negative, codes in `0 ..= top`: `make_qp_quants`.
///
/// Quantizes the scales and minimums of a block's groups, weighted with the groups' importance. Codes of negative
/// numbers wrap, as they do in ggml. Up to 32 numbers.
pub(super) fn positive(x: &[f32], top: i32, weights: &[f32], codes: &mut [u8]) -> f32 {
    let high = x.iter().fold(0.0, |m, &v| max(m, v));
    if high < ALL_ZERO {
        codes.fill(0);
        return 0.0;
    }
    // The first candidate's codes are not clamped, and wrap in a byte.
    let mut inverse = top as f32 / high;
    let scale = 1.0 / inverse;
    let mut best = 0.0f32;
    for (&v, &w) in x.iter().zip(weights) {
        let difference = v - scale * (nearest(inverse * v) as u8) as f32;
        best += w * difference * difference;
    }
    for step in (-4..=4).filter(|&s| s != 0) {
        let candidate = (0.1 * step as f32 + top as f32) / high;
        let scale = 1.0 / candidate;
        let mut error = 0.0f32;
        for (&v, &w) in x.iter().zip(weights) {
            let difference = v - scale * nearest(candidate * v).min(top) as f32;
            error += w * difference * difference;
        }
        if error < best {
            best = error;
            inverse = candidate;
        }
    }
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for ((c, &v), &w) in codes.iter_mut().zip(x).zip(weights) {
        let l = nearest(inverse * v).min(top);
        *c = l as u8;
        lx += w * v * l as f32;
        l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((c, &v), &w) in codes.iter_mut().zip(x).zip(weights) {
            let old = *c as f32;
            let mut without_lx = lx - w * v * old;
            let mut without_l2 = l2 - w * old * old;
            if !(without_lx > 0.0 && without_l2 > 0.0) {
                continue;
            }
            let candidate = nearest(v * without_l2 / without_lx).min(top);
            if candidate == *c as i32 {
                continue;
            }
            let new = candidate as f32;
            without_lx += w * v * new;
            without_l2 += w * new * new;
            if without_lx * without_lx * l2 > lx * lx * without_l2 {
                *c = candidate as u8;
                lx = without_lx;
                l2 = without_l2;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}
