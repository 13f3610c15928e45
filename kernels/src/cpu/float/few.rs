//! Few tokens: dot products of rows as they are read.

use super::{FEW, Part};
use crate::cpu::ahead::Ahead;
use crate::cpu::simd::{Op, Simd};
use crate::cpu::{Cpu, shares};
use std::marker::PhantomData;

pub(super) fn matmul(cpu: &Cpu, x: &[f32], n: usize, parts: &[Part<'_>]) {
    let shares = shares::cut(parts.iter().map(|p| (p.rows, p.row_bytes())), cpu.pool.at_work(), 1);
    cpu.pool.run(shares.len(), |i| {
        let (part, rows) = (&parts[shares[i].weight], &shares[i].rows);
        (part.float.few)(cpu.isa, Rows { part, x, n, first: rows.start, rows: rows.len() });
    });
}

/// Rows `first .. first + rows` for all tokens.
pub(super) struct Rows<'p, 'a> {
    part: &'p Part<'a>,
    x: &'p [f32],
    n: usize,
    first: usize,
    rows: usize,
}

/// [`Rows`] of a format.
pub(super) struct Each<'p, 'a, F>(pub(super) Rows<'p, 'a>, pub(super) PhantomData<F>);

impl<F: Stored> Op for Each<'_, '_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.each::<S, F>(s);
    }
}

/// A stored number.
pub(super) trait Stored: 'static {
    const BYTES: usize;

    /// # Safety
    /// [`Simd::LANES`] numbers can be read there.
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::V;

    /// # Safety
    /// One number can be read there.
    unsafe fn one(from: *const u8) -> f32;
}

macro_rules! stored {
    ($name:ident, $bits:ty, $load:ident, |$one:ident| $float:expr) => {
        pub(super) struct $name;
        impl Stored for $name {
            const BYTES: usize = size_of::<$bits>();

            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::V {
                // SAFETY: by the caller's promise; loads need no alignment.
                unsafe { s.$load(from.cast()) }
            }

            #[inline(always)]
            unsafe fn one(from: *const u8) -> f32 {
                // SAFETY: by the caller's promise.
                let $one = unsafe { from.cast::<$bits>().read_unaligned() };
                $float
            }
        }
    };
}
stored!(F32, u32, load, |x| f32::from_bits(x));
stored!(F16, u16, load_f16, |x| half::f16::from_bits(x).to_f32());
stored!(Bf16, u16, load_bf16, |x| f32::from_bits(u32::from(x) << 16));

impl Rows<'_, '_> {
    #[inline(always)]
    fn each<S: Simd, F: Stored>(&self, s: S) {
        let Part { cols, .. } = *self.part;
        let row_bytes = self.part.row_bytes();
        assert!(self.x.len() >= self.n * cols && row_bytes == cols * F::BYTES, "rows are as long as the activations");
        match self.n {
            1 => {
                for row in self.first..self.first + self.rows {
                    let weights = &self.part.bytes[row * row_bytes..][..row_bytes];
                    // SAFETY: a row of `cols` numbers and as many activations; the row belongs to this item alone.
                    unsafe { self.part.put(0, row, &[dot::<S, F>(s, weights, self.x, cols)]) };
                }
            }
            2 => self.rows::<S, F, 2>(s),
            3 => self.rows::<S, F, 3>(s),
            _ => self.rows::<S, F, FEW>(s),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, F: Stored, const T: usize>(&self, s: S) {
        let end = self.first + self.rows;
        let mut row = self.first;
        // Two rows at a time where the tokens' activations do not fit the first-level cache beside the weights. (More
        // rows, and two for fewer tokens, are slower: memory is read fastest in one stream.)
        while T == FEW && row + 2 <= end {
            self.put::<S, F, T, 2>(s, row);
            row += 2;
        }
        while row < end {
            self.put::<S, F, T, 1>(s, row);
            row += 1;
        }
    }

    #[inline(always)]
    fn put<S: Simd, F: Stored, const T: usize, const R: usize>(&self, s: S, first: usize) {
        let row_bytes = self.part.row_bytes();
        let weights = &self.part.bytes[first * row_bytes..][..R * row_bytes];
        // SAFETY: `R` rows of `cols` numbers, and `T` rows of as many activations (asserted in `each`).
        let sums = unsafe { dots::<S, F, T, R>(s, weights, self.x, self.part.cols) };
        for (r, sums) in sums.iter().enumerate() {
            for (token, sum) in sums.iter().enumerate() {
                // SAFETY: this row belongs to this item alone.
                unsafe { self.part.put(token, first + r, std::slice::from_ref(sum)) };
            }
        }
    }
}

/// Dot products of `R` rows with `T` tokens: each vector that is loaded serves all of the others.
///
/// # Safety
/// `weights` has `R * cols` numbers, `x` has `T * cols`.
#[inline(always)]
unsafe fn dots<S: Simd, F: Stored, const T: usize, const R: usize>(
    s: S,
    weights: &[u8],
    x: &[f32],
    cols: usize,
) -> [[f32; T]; R] {
    let (w, x, ahead) = (weights.as_ptr(), x.as_ptr(), Ahead::here());
    let mut sums = [[s.zero(); T]; R];
    let mut k = 0;
    // SAFETY: below `cols` in every row.
    unsafe {
        while k + S::LANES <= cols {
            let mut vectors = [s.zero(); T];
            for (t, v) in vectors.iter_mut().enumerate() {
                *v = s.load(x.add(t * cols + k));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let at = w.add((r * cols + k) * F::BYTES);
                ahead.ask(at.wrapping_add(ahead.by), S::LANES * F::BYTES);
                let a = F::load(s, at);
                for (sum, v) in sums.iter_mut().zip(vectors) {
                    *sum = s.fma(a, v, *sum);
                }
            }
            k += S::LANES;
        }
        let mut out = [[0.0; T]; R];
        for (r, (out, sums)) in out.iter_mut().zip(sums).enumerate() {
            for (t, (out, sum)) in out.iter_mut().zip(sums).enumerate() {
                *out = s.sum(sum);
                for k in k..cols {
                    *out += F::one(w.add((r * cols + k) * F::BYTES)) * x.add(t * cols + k).read();
                }
            }
        }
        out
    }
}

/// The dot product with one token, in eight vectors of partial sums: memory is to be the only bound.
///
/// # Safety
/// `weights` and `x` have `cols` numbers.
#[inline(always)]
unsafe fn dot<S: Simd, F: Stored>(s: S, weights: &[u8], x: &[f32], cols: usize) -> f32 {
    const SUMS: usize = 8;
    let (w, x, ahead) = (weights.as_ptr(), x.as_ptr(), Ahead::here());
    let mut sums = [s.zero(); SUMS];
    let mut k = 0;
    // SAFETY: below `cols` everywhere; prefetching is possible anywhere.
    unsafe {
        while k + SUMS * S::LANES <= cols {
            ahead.ask(w.wrapping_add(k * F::BYTES + ahead.by), SUMS * S::LANES * F::BYTES);
            for (u, sum) in sums.iter_mut().enumerate() {
                let at = k + u * S::LANES;
                *sum = s.fma(F::load(s, w.add(at * F::BYTES)), s.load(x.add(at)), *sum);
            }
            k += SUMS * S::LANES;
        }
        while k + S::LANES <= cols {
            sums[0] = s.fma(F::load(s, w.add(k * F::BYTES)), s.load(x.add(k)), sums[0]);
            k += S::LANES;
        }
        let [a, b, c, d, e, f, g, h] = sums;
        let sum = s.add(s.add(s.add(a, b), s.add(c, d)), s.add(s.add(e, f), s.add(g, h)));
        (k..cols).fold(s.sum(sum), |sum, k| sum + F::one(w.add(k * F::BYTES)) * x.add(k).read())
    }
}
