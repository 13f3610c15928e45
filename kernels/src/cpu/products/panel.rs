//! Activations as products with quantized weights take them: 8-bit integers, scales, and the sums that offsets need.

use super::MOST_FEW;
use super::simd::{Kernel, Simd};
use crate::Result;
use crate::cpu::Isa;
use crate::cpu::memory::{Aligned, Plain, Split};
use crate::cpu::pool::Pool;

/// Activations in a unit: the longest block of a format.
pub(in crate::cpu) const UNIT: usize = 256;

/// 256 neighbouring activations of one token, in groups of 32 with a scale each.
///
/// What a format with groups of 16 needs is there besides, so that no product has to work it out for every row.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Unit {
    /// `x / scale`, rounded to nearest: -127 to 127.
    pub(super) q: [u8; UNIT],
    /// The same once more as [`IntegerSums::once_more`](super::simd::IntegerSums::once_more) has it. Only where tokens are few.
    pub(super) more: [u8; UNIT],
    /// Largest magnitude / 127.
    pub(super) scale: [f32; 8],
    /// `scale` times the sum of `q` in each group of 32, for what formats add to all weights of a group.
    pub(super) sum: [f32; 8],
    /// Minus the sum of `q` in each group of 32, for offsets of codes.
    pub(super) minus: [i32; 8],
    _align: [u32; 8],
    /// The same by groups of 16; both halves of 32 have the same scale.
    pub(super) scale16: [f32; 16],
    pub(super) sum16: [f32; 16],
    pub(super) minus16: [i32; 16],
    /// The same for four neighbours.
    pub(super) minus_fours: [i32; UNIT / 4],
}

// SAFETY: arrays of integers and floats, for all of which zero bytes are a value.
unsafe impl Plain for Unit {}

/// The activations of one product: `(units, tokens)`, so that what a loop over tokens reads is contiguous.
pub(in crate::cpu) struct Panel {
    units: Aligned<Unit>,
}

impl Panel {
    pub(in crate::cpu) fn new() -> Result<Self> {
        Ok(Panel { units: Aligned::zeroed(0, "activations")? })
    }

    /// Quantizes `n` rows of `cols` floats; `padded` tokens are stored, those beyond `n` as zeros.
    /// Errors: no memory.
    pub(in crate::cpu) fn fill(
        &mut self,
        isa: Isa,
        pool: &Pool,
        x: &[f32],
        n: usize,
        padded: usize,
        cols: usize,
    ) -> Result<()> {
        let units = even_units(cols);
        let len = units * padded;
        if self.units.len() < len {
            self.units = Aligned::zeroed(len, "activations rounded to 8 bits")?;
        }
        let open = Split::new(&mut self.units[..len]);
        let unit_of_all = |u: usize| {
            // SAFETY: each range of tokens of a unit belongs to one item.
            let out = unsafe { open.slice(u * padded, padded) };
            super::run(isa, Quantize { x, n, cols, unit: u, out });
        };
        // About 4000 activations are worth waking another thread.
        if n * cols < 8192 {
            (0..units).for_each(unit_of_all)
        } else {
            pool.run(units, unit_of_all)
        }
        Ok(())
    }

    /// Unit `u` of all tokens of `padded`.
    pub(in crate::cpu) fn unit(&self, u: usize, padded: usize) -> &[Unit] {
        &self.units[u * padded..][..padded]
    }

    /// All units, and one of zeros where their number is odd.
    pub(in crate::cpu) fn units(&self, cols: usize, padded: usize) -> &[Unit] {
        &self.units[..even_units(cols) * padded]
    }
}

/// Units of a row and perhaps one of zeros: products take two together.
fn even_units(cols: usize) -> usize {
    cols.div_ceil(UNIT).next_multiple_of(2)
}

/// Quantizes one unit of all tokens.
struct Quantize<'a> {
    x: &'a [f32],
    n: usize,
    cols: usize,
    unit: usize,
    out: &'a mut [Unit],
}

impl Kernel for Quantize<'_> {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        let start = (self.unit * UNIT).min(self.cols);
        let few = self.out.len() <= MOST_FEW;
        for (i, out) in self.out.iter_mut().enumerate() {
            let row = if i < self.n { &self.x[i * self.cols + start..(i + 1) * self.cols] } else { &[] };
            if let Some(x) = row.first_chunk() {
                quantize(v, x, out);
            } else {
                let mut x = [0.0; UNIT];
                x[..row.len()].copy_from_slice(row);
                quantize(v, &x, out);
            }
            if few {
                v.once_more(&out.q, &mut out.more);
            }
        }
    }
}

/// Largest magnitudes below this count as zero: their inverse would not be a number.
const TINY: f32 = 1e-36;

/// A group with an infinity or a NaN gets a scale that makes every product with it NaN or infinite.
#[inline(always)]
fn quantize<V: Simd>(v: V, x: &[f32; UNIT], out: &mut Unit) {
    for (g, (x, q)) in x.as_chunks::<32>().0.iter().zip(out.q.as_chunks_mut::<32>().0).enumerate() {
        let (a, b) = (v.floats(&x.as_chunks().0[0]), v.floats(&x.as_chunks().0[1]));
        let largest = v.largest(a, b);
        let (scale, inverse) = if largest < TINY { (0.0, 0.0) } else { (largest / 127.0, 127.0 / largest) };
        let q = q.as_chunks_mut().0;
        v.round(v.mul(a, v.splat(inverse)), &mut q[0]);
        v.round(v.mul(b, v.splat(inverse)), &mut q[1]);
        out.scale[g] = scale;
    }
    for part in 0..4 {
        let sums = v.dot(false, v.start_group(false, 32, 0), v.where_set(!0, 1), v.load(&out.q, 64 * part));
        let mut fours = [0; 16];
        v.store_ints(sums, &mut fours);
        out.minus_fours.as_chunks_mut().0[part] = fours.map(|sum| -sum);
        for i in 0..4 {
            let g = 4 * part + i;
            let sum = fours[4 * i] + fours[4 * i + 1] + fours[4 * i + 2] + fours[4 * i + 3];
            out.minus16[g] = -sum;
            out.scale16[g] = out.scale[g / 2];
            out.sum16[g] = out.scale16[g] * sum as f32;
        }
    }
    for g in 0..8 {
        let minus = out.minus16[2 * g] + out.minus16[2 * g + 1];
        out.minus[g] = minus;
        out.sum[g] = out.scale[g] * -minus as f32;
    }
}
