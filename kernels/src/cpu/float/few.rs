//! Few tokens: dot products of rows as they are read.

use super::{FEW, ITEM_BYTES, Kind, Part};
use crate::cpu::Cpu;
use crate::cpu::simd::{Op, Simd, dispatch};

pub(super) fn matmul(cpu: &Cpu, x: &[f32], n: usize, parts: &[Part<'_>]) {
    let rows = |p: &Part<'_>| (ITEM_BYTES / p.row_bytes().max(1)).max(1);
    let items = |p: &Part<'_>| p.rows.div_ceil(rows(p));
    cpu.pool.run(parts.iter().map(items).sum(), |mut item| {
        for part in parts {
            if item < items(part) {
                let first = item * rows(part);
                let rows = rows(part).min(part.rows - first);
                return dispatch(cpu.isa, Rows { part, x, n, first, rows });
            }
            item -= items(part);
        }
    });
}

/// Rows `first .. first + rows` for all tokens.
struct Rows<'p, 'a> {
    part: &'p Part<'a>,
    x: &'p [f32],
    n: usize,
    first: usize,
    rows: usize,
}

impl Op for Rows<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.part.kind {
            Kind::F32 => self.each::<S, F32>(s),
            Kind::F16 => self.each::<S, F16>(s),
            Kind::Bf16 => self.each::<S, Bf16>(s),
        }
    }
}

/// A stored number.
pub(super) trait Stored {
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
        for row in self.first..self.first + self.rows {
            let weights = &self.part.bytes[row * row_bytes..][..row_bytes];
            let mut sums = [0.0; FEW];
            // SAFETY: a row of `cols` numbers, and `n` rows of activations of as many.
            unsafe {
                match self.n {
                    1 => dots::<S, F, 1, 8>(s, weights, self.x, cols, &mut sums),
                    2 => dots::<S, F, 2, 4>(s, weights, self.x, cols, &mut sums),
                    3 => dots::<S, F, 3, 2>(s, weights, self.x, cols, &mut sums),
                    _ => dots::<S, F, 4, 2>(s, weights, self.x, cols, &mut sums),
                }
            }
            for (token, sum) in sums[..self.n].iter().enumerate() {
                // SAFETY: this row belongs to this item alone.
                unsafe { self.part.put(token, row, std::slice::from_ref(sum)) };
            }
        }
    }
}

/// Dot products of a row with `T` tokens, in `U` vectors of partial sums each.
///
/// # Safety
/// `weights` has `cols` numbers, `x` has `T * cols`.
#[inline(always)]
unsafe fn dots<S: Simd, F: Stored, const T: usize, const U: usize>(
    s: S,
    weights: &[u8],
    x: &[f32],
    cols: usize,
    out: &mut [f32; FEW],
) {
    let (w, x) = (weights.as_ptr(), x.as_ptr());
    let mut sums = [[s.zero(); U]; T];
    let step = U * S::LANES;
    let mut k = 0;
    // SAFETY: below `cols` everywhere.
    unsafe {
        while k + step <= cols {
            for u in 0..U {
                let at = k + u * S::LANES;
                let weights = F::load(s, w.add(at * F::BYTES));
                for (t, sums) in sums.iter_mut().enumerate() {
                    sums[u] = s.fma(weights, s.load(x.add(t * cols + at)), sums[u]);
                }
            }
            k += step;
        }
        while k + S::LANES <= cols {
            let weights = F::load(s, w.add(k * F::BYTES));
            for (t, sums) in sums.iter_mut().enumerate() {
                sums[0] = s.fma(weights, s.load(x.add(t * cols + k)), sums[0]);
            }
            k += S::LANES;
        }
        for (t, sums) in sums.iter().enumerate() {
            let mut sum = sums[0];
            for more in &sums[1..] {
                sum = s.add(sum, *more);
            }
            out[t] = s.sum(sum);
            for k in k..cols {
                out[t] += F::one(w.add(k * F::BYTES)) * x.add(t * cols + k).read();
            }
        }
    }
}
