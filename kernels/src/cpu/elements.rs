//! Operations on each element or each row of activations.

use super::simd::{Op, Simd, math};
use crate::Norm;

#[cfg(test)]
mod tests;

/// See [`crate::Backend::argmax`].
pub(super) fn argmax(x: &[f32]) -> f32 {
    let mut best = (f32::NEG_INFINITY, f32::NAN);
    for (i, &v) in x.iter().enumerate() {
        if v.is_nan() || v == f32::INFINITY {
            return f32::NAN;
        }
        if v > best.0 {
            best = (v, i as f32);
        }
    }
    best.1
}

/// `x = f(x, y)`, element by element.
pub(super) trait Function: Copy {
    /// On vectors.
    fn of<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V;
}

/// Applies a function to `x` and as many elements of `y`; functions of one number take `y` empty.
pub(super) struct Apply<'a, F> {
    pub f: F,
    pub x: &'a mut [f32],
    pub y: &'a [f32],
}

impl<F: Function> Op for Apply<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Apply { f, x, y } = self;
        assert!(y.is_empty() || y.len() >= x.len(), "the second operand is shorter");
        let (one, len) = (y.is_empty(), x.len());
        let (x, y) = (x.as_mut_ptr(), y.as_ptr());
        let mut i = 0;
        while i + S::LANES <= len {
            // SAFETY: the vector lies inside x, and inside y unless that is not read.
            unsafe {
                let a = s.load(x.add(i));
                let b = if one { a } else { s.load(y.add(i)) };
                s.store(x.add(i), f.of(s, a, b));
            }
            i += S::LANES;
        }
        let rest = len - i;
        if rest > 0 {
            // SAFETY: `rest` elements are left.
            unsafe {
                let a = s.load_part(x.add(i), rest);
                let b = if one { a } else { s.load_part(y.add(i), rest) };
                s.store_part(x.add(i), f.of(s, a, b), rest);
            }
        }
    }
}

/// Declares functions without parameters.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = |$s:ident, $x:ident, $y:ident| $value:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name;
        impl Function for $name {
            #[inline(always)]
            fn of<S: Simd>(self, $s: S, $x: S::V, $y: S::V) -> S::V {
                $value
            }
        }
    )*};
}

functions! {
    /// `x + y`
    Add = |s, x, y| s.add(x, y);
    /// `x * sigmoid(x)`
    Silu = |s, x, _y| math::silu(s, x);
    /// GELU, tanh approximation.
    GeluTanh = |s, x, _y| math::gelu_tanh(s, x);
    /// GELU.
    GeluErf = |s, x, _y| math::gelu_erf(s, x);
    /// `max(x, 0)`; NaN stays.
    Relu = |s, x, _y| s.max(s.zero(), x);
}

/// `x * factor`
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale(pub f32);

impl Function for Scale {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, _: S::V) -> S::V {
        s.mul(x, s.splat(self.0))
    }
}

/// `cap * tanh(x / cap)`
#[derive(Debug, Clone, Copy)]
pub(super) struct SoftCap(pub f32);

impl Function for SoftCap {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, _: S::V) -> S::V {
        let cap = s.splat(self.0);
        s.mul(cap, math::tanh(s, s.div(x, cap)))
    }
}

/// `f(x) * y`: a gate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate<F>(pub F);

impl<F: Function> Function for Gate<F> {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V {
        s.mul(self.0.of(s, x, x), y)
    }
}

/// One row of [`crate::Backend::norm`].
pub(super) struct NormRow<'a> {
    pub norm: Norm,
    pub eps: f32,
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
    pub x: &'a [f32],
    pub out: &'a mut [f32],
}

impl Op for NormRow<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let NormRow { norm, eps, weight, bias, x, out } = self;
        let cols = x.len();
        assert!(weight.len() == cols && out.len() == cols && bias.is_none_or(|b| b.len() == cols), "rows fit");
        let mean = match norm {
            Norm::Rms => 0.0,
            Norm::Layer => (f64::from(sum::<S, false>(s, x, 0.0)) / cols as f64) as f32,
        };
        let squares = f64::from(sum::<S, true>(s, x, mean));
        let factor = (1.0 / (squares / cols as f64 + f64::from(eps)).sqrt()) as f32;
        let (mean_v, factor_v) = (s.splat(mean), s.splat(factor));
        let mut i = 0;
        while i < cols {
            let n = S::LANES.min(cols - i);
            let (x, weight, out) = (&x[i..i + n], &weight[i..i + n], &mut out[i..i + n]);
            let bias = bias.map(|b| &b[i..i + n]);
            // SAFETY: all slices have `n` elements; whole vectors are only touched where that is a whole vector.
            unsafe {
                if n == S::LANES {
                    let b = bias.map_or(s.zero(), |b| s.load(b.as_ptr()));
                    let x = s.mul(s.sub(s.load(x.as_ptr()), mean_v), factor_v);
                    s.store(out.as_mut_ptr(), s.fma(x, s.load(weight.as_ptr()), b));
                } else {
                    let b = bias.map_or(s.zero(), |b| s.load_part(b.as_ptr(), n));
                    let x = s.mul(s.sub(s.load_part(x.as_ptr(), n), mean_v), factor_v);
                    s.store_part(out.as_mut_ptr(), s.fma(x, s.load_part(weight.as_ptr(), n), b), n);
                }
            }
            i += n;
        }
    }
}

/// Sum of `x - mean`, or of its squares: in four vectors of partial sums.
#[inline(always)]
fn sum<S: Simd, const SQUARED: bool>(s: S, x: &[f32], mean: f32) -> f32 {
    const SUMS: usize = 4;
    let mut sums = [s.zero(); SUMS];
    let chunks = x.chunks_exact(SUMS * S::LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the chunk holds so many vectors.
            let x = unsafe { s.load(chunk.as_ptr().add(i * S::LANES)) };
            let d = s.sub(x, s.splat(mean));
            *sum = if SQUARED { s.fma(d, d, *sum) } else { s.add(*sum, d) };
        }
    }
    let total = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
    rest.iter().fold(total, |total, x| total + if SQUARED { (x - mean) * (x - mean) } else { x - mean })
}
