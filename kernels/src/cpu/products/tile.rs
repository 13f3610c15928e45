//! Products with many tokens (prompts): weights are unpacked once into a tile that the cache holds, then meet all tokens.
//!
//! A tile is 32 rows of one unit, interleaved so that a register holds four neighbouring codes of 16 rows: the four
//! activations that they meet are the same in all lanes, and results need no sums across lanes. Sums of a group (32
//! activations, or 16) are integers; then come the scales.

use super::Codes;
use super::few::{MOST_BYTES, last_unit};
use super::panel::{UNIT, Unit};
use super::simd::{Kernel, Simd};
use super::sixteens::codes_in_order;
use std::marker::PhantomData;

/// Rows of a tile.
pub(in crate::cpu) const ROWS: usize = 32;

/// 32 rows of a unit.
#[repr(C, align(64))]
pub(in crate::cpu) struct Tile {
    /// `(column / 4, row)`, four codes each.
    codes: [[u32; ROWS]; UNIT / 4],
    /// `(group, row)`, the bits of floats.
    scales: [[u32; ROWS]; 16],
    /// `(group, row)`, the bits of floats.
    plus: [[u32; ROWS]; 16],
    offset_log2: u32,
    /// Weights that share a scale.
    group: usize,
    /// Whether there is a `plus`.
    adds: bool,
    /// Sixteen rows before they are interleaved.
    rows: Plain,
}

#[repr(C, align(64))]
struct Plain {
    /// `(part, row)`
    codes: [[[u32; 16]; 16]; 4],
    scales: [[u32; 16]; 16],
    plus: [[u32; 16]; 16],
}

impl Tile {
    pub(in crate::cpu) fn new() -> Box<Self> {
        let rows = Plain { codes: [[[0; 16]; 16]; 4], scales: [[0; 16]; 16], plus: [[0; 16]; 16] };
        let [scales, plus] = [[[0; ROWS]; 16]; 2];
        Box::new(Tile { codes: [[0; ROWS]; UNIT / 4], scales, plus, offset_log2: 0, group: 32, adds: false, rows })
    }

    /// What the codes mean.
    pub(in crate::cpu) fn unpacked(&self) -> Unpacked<'_> {
        let Tile { codes, scales, plus, offset_log2, group, adds, .. } = self;
        let offset = if *offset_log2 == 32 { 0.0 } else { (1u32 << offset_log2) as f32 };
        Unpacked { codes, offset, scales: &scales[..UNIT / group], plus: &plus[..if *adds { UNIT / group } else { 0 }] }
    }
}

/// A tile's weights: `scale * (code - offset) + plus`. (For instruction sets that take whole bytes as codes.)
pub(in crate::cpu) struct Unpacked<'a> {
    /// `(column / 4, row)`, four codes each.
    pub(in crate::cpu) codes: &'a [[u32; ROWS]; UNIT / 4],
    pub(in crate::cpu) offset: f32,
    /// `(group, row)`, the bits of floats.
    pub(in crate::cpu) scales: &'a [[u32; ROWS]],
    /// The same, or none.
    pub(in crate::cpu) plus: &'a [[u32; ROWS]],
}

/// Unpacks one unit of some rows.
pub(super) struct Unpack<'a, F> {
    /// At most 32 whole rows.
    pub(super) bytes: &'a [u8],
    pub(super) row_bytes: usize,
    pub(super) cols: usize,
    /// Which unit of the rows.
    pub(super) unit: usize,
    pub(super) tile: &'a mut Tile,
    pub(super) format: PhantomData<F>,
}

impl<F: Codes> Kernel for Unpack<'_, F> {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        let Unpack { bytes, row_bytes, cols, unit, tile, .. } = self;
        let rows = bytes.len() / row_bytes;
        tile.offset_log2 = if F::OFFSET == 0 { 32 } else { F::OFFSET.ilog2() };
        (tile.group, tile.adds) = (F::GROUP, F::PLUS);
        for half in 0..ROWS / 16 {
            if 16 * half >= rows {
                break; // what is left there from before is computed with and not used
            }
            let Plain { codes, scales, plus } = &mut tile.rows;
            for r in 0..16.min(rows - 16 * half) {
                let row = &bytes[(16 * half + r) * row_bytes..][..row_bytes];
                let mut last;
                let bytes = if (unit + 1) * UNIT <= cols {
                    &row[unit * F::BYTES..][..F::BYTES]
                } else {
                    last = [0; MOST_BYTES];
                    last_unit::<F>(row, unit, &mut last);
                    &last[..F::BYTES]
                };
                let (scale, more) = F::scales(v, bytes);
                v.store_float_bits(scale, &mut scales[r]);
                if F::PLUS {
                    v.store_float_bits(more, &mut plus[r]);
                }
                let eight = F::OFFSET == 128;
                let ready = F::ready_of_one(v, bytes);
                if F::BOOK > 0 {
                    let [a, b, c, d] = codes_in_order::<V, F>(v, bytes, &ready);
                    v.store(a, &mut codes[0][r]);
                    v.store(b, &mut codes[1][r]);
                    v.store(c, &mut codes[2][r]);
                    v.store(d, &mut codes[3][r]);
                    continue;
                }
                v.store(v.stored(eight, F::codes(v, bytes, &ready, 0)), &mut codes[0][r]);
                v.store(v.stored(eight, F::codes(v, bytes, &ready, 1)), &mut codes[1][r]);
                v.store(v.stored(eight, F::codes(v, bytes, &ready, 2)), &mut codes[2][r]);
                v.store(v.stored(eight, F::codes(v, bytes, &ready, 3)), &mut codes[3][r]);
            }
            let groups = UNIT / F::GROUP;
            for (part, codes) in tile.rows.codes.iter().enumerate() {
                let piece = |quarter| 4 * F::ORDER.piece(part, quarter);
                v.transpose(codes, &mut tile.codes, [piece(0), piece(1), piece(2), piece(3)], half);
            }
            v.transpose(&tile.rows.scales, &mut tile.scales[..groups], [0, 4, 8, 12], half);
            if F::PLUS {
                v.transpose(&tile.rows.plus, &mut tile.plus[..groups], [0, 4, 8, 12], half);
            }
        }
    }
}

/// What meets a tile.
pub(in crate::cpu) struct Work<'a> {
    /// One unit of an even number of tokens.
    pub(in crate::cpu) x: &'a [Unit],
    /// `(tokens, 32 rows)`: added to.
    pub(in crate::cpu) sums: &'a mut [[f32; ROWS]],
}

/// Multiplies a tile with all tokens. `PLUS` as in [`Codes`]; codes have at most `BITS` bits (5, 7 or 8).
pub(super) struct Multiply<'a, const GROUP: usize, const PLUS: bool, const BITS: u32> {
    pub(super) tile: &'a Tile,
    pub(super) work: Work<'a>,
}

impl<const GROUP: usize, const PLUS: bool, const BITS: u32> Kernel for Multiply<'_, GROUP, PLUS, BITS> {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        v.tile::<GROUP, PLUS, BITS>(self.tile, self.work);
    }
}

/// [`Multiply`] with `16 * R` rows and `T` tokens in registers.
#[inline(always)]
pub(super) fn many<V: Simd, const GROUP: usize, const PLUS: bool, const BITS: u32, const R: usize, const T: usize>(
    v: V,
    tile: &Tile,
    work: Work<'_>,
) {
    let (x, x_rest) = work.x.as_chunks::<T>();
    let (sums, sums_rest) = work.sums.as_chunks_mut::<T>();
    for (x, sums) in x.iter().zip(sums) {
        for r in (0..ROWS / 16).step_by(R) {
            block::<V, GROUP, PLUS, BITS, R, T>(v, tile, r, x, sums);
        }
    }
    let (x, sums) = (x_rest.as_chunks::<2>().0, sums_rest.as_chunks_mut::<2>().0);
    for (x, sums) in x.iter().zip(sums) {
        for r in (0..ROWS / 16).step_by(R) {
            block::<V, GROUP, PLUS, BITS, R, 2>(v, tile, r, x, sums);
        }
    }
}

/// `T` tokens and rows `16 * first ..` of a tile.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // several arrays go along; iterators would hide it
fn block<V: Simd, const GROUP: usize, const PLUS: bool, const BITS: u32, const R: usize, const T: usize>(
    v: V,
    tile: &Tile,
    first: usize,
    x: &[Unit; T],
    out: &mut [[f32; ROWS]; T],
) {
    let eight = BITS == 8;
    let mut sums = [[v.splat(0.0); R]; T];
    for t in 0..T {
        for r in 0..R {
            sums[t][r] = v.floats(&out[t].as_chunks().0[first + r]);
        }
    }
    for g in 0..UNIT / GROUP {
        let mut ints = [[v.start_group(eight, 32, 0); R]; T];
        for t in 0..T {
            let minus = if GROUP == 16 { x[t].minus16[g] } else { x[t].minus[g] };
            ints[t] = [v.start_group(eight, tile.offset_log2, minus); R];
        }
        let steps = if BITS == 5 { 4 } else { GROUP / 4 };
        for first_step in (g * GROUP / 4..(g + 1) * GROUP / 4).step_by(steps) {
            let mut sums = ints;
            for t in 0..T {
                for r in 0..R {
                    sums[t][r] = if BITS == 5 { v.begin_small(ints[t][r]) } else { ints[t][r] };
                }
            }
            for step in first_step..first_step + steps {
                let mut codes = [v.load_words(&tile.codes[step].as_chunks().0[first]); R];
                for r in 1..R {
                    codes[r] = v.load_words(&tile.codes[step].as_chunks().0[first + r]);
                }
                for t in 0..T {
                    let x = x[t].q.as_chunks().0[step];
                    for r in 0..R {
                        let sum = &mut sums[t][r];
                        *sum = if BITS == 5 {
                            v.dot_small(*sum, codes[r], x)
                        } else {
                            v.dot_four(eight, *sum, codes[r], x)
                        };
                    }
                }
            }
            for t in 0..T {
                for r in 0..R {
                    ints[t][r] = if BITS == 5 { v.end_small(ints[t][r], sums[t][r]) } else { sums[t][r] };
                }
            }
        }
        for r in 0..R {
            let scale = v.float_bits(&tile.scales[g].as_chunks().0[first + r]);
            for t in 0..T {
                let of_x = v.splat(if GROUP == 16 { x[t].scale16[g] } else { x[t].scale[g] });
                sums[t][r] = v.fma(v.mul(v.to_floats(ints[t][r]), scale), of_x, sums[t][r]);
            }
            if PLUS {
                let plus = v.float_bits(&tile.plus[g].as_chunks().0[first + r]);
                for t in 0..T {
                    let sum = v.splat(if GROUP == 16 { x[t].sum16[g] } else { x[t].sum[g] });
                    sums[t][r] = v.fma(plus, sum, sums[t][r]);
                }
            }
        }
    }
    for t in 0..T {
        for r in 0..R {
            v.store_floats(sums[t][r], &mut out[t].as_chunks_mut().0[first + r]);
        }
    }
}
