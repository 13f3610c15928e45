//! Products with few tokens for formats with groups of 16 or with codebooks: integer sums of 16 neighbours, a lane each, so that a unit
//! of 256 weights takes one conversion to floats and one multiplication with scales, and these need not be spread.
//!
//! (Sums of four with spread scales, as other formats have them, took 8 conversions, 8 permutations and 8 additions for two units, a
//! third of the instructions of IQ2_XXS with VBMI. Of formats with groups of 16, Q2_K, Q3_K and Q6_K gained 3 to 11% with AVX2 and with
//! AVX-512. For groups of 32 it is no gain: sums of 32 neighbours need as many instructions as the conversions.)
//!
//! Tried with AVX2 on Zen 5:
//! - sums by multiplications with one and packing instead of shuffles and additions in 16 bits: the same within 3%, though multiplications
//!   have fewer ports. (512 weights of Q2_K are 172 instructions and take 41 to 44 cycles; other formats run at about four instructions
//!   a cycle as well, and what holds them there was not found.);
//! - a second chain of float sums: more registers than there are, 4% slower for Q2_K;
//! - Q2_K's scales cut out in general registers: 2 to 7% slower, and 7 to 11% with AVX-512.
//!
//! Not tried: scales as 16-bit factors of the last multiplication, as ggml has them.

use super::few::{Meets, Sums, adds, codes, counting, eight_of, with_offset};
use super::simd::Simd;
use super::{Codes, Ready};

/// Whether parts of a unit are every fourth weight; see [`super::books`].
#[inline(always)]
pub(super) const fn by_fourths<V: Simd, F: Codes>() -> bool {
    F::BOOK > 0 && F::BOOK <= V::MOST_BY_DIGITS
}

/// One or two units of one row, as [`units_of`](super::few) has them.
#[inline(always)]
pub(super) fn units_of<V: Simd, F: Codes, const R: usize, const T: usize, const N: usize>(
    v: V,
    r: usize,
    units: [&[u8]; 2],
    x: Meets<'_, T>,
    groups: usize,
    sums: &mut Sums<V, R, T>,
) {
    if N == 2 {
        // Both before all else: it takes long, and the processor does not look so far ahead.
        let ready = F::ready_of_two(v, units[0], units[1]);
        v.signs_in_turn(ready[0].signs, ready[1].signs);
        unit_of::<V, F, R, T, N>(v, r, units[0], &ready[0], x, groups, sums);
        unit_of::<V, F, R, T, N>(v, r, units[1], &ready[1], x.next(1), groups, sums);
        return;
    }
    unit_of::<V, F, R, T, N>(v, r, units[0], &F::ready_of_one(v, units[0]), x, groups, sums);
}

/// One unit.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a piece of the function above, written once
#[allow(clippy::needless_range_loop)] // several arrays go along; iterators would hide it
fn unit_of<V: Simd, F: Codes, const R: usize, const T: usize, const N: usize>(
    v: V,
    r: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: Meets<'_, T>,
    groups: usize,
    sums: &mut Sums<V, R, T>,
) {
    let of_all = F::scales(v, unit);
    let of_all = if N == 2 { of_all } else { counting::<V, F>(v, groups, of_all) };
    let (scale, plus) = with_offset::<V, F>(v, of_all);
    let by_16 = if F::GROUP == 32 { v.twice(scale) } else { scale };
    let at = x.unit;
    let products = products_of::<V, F, T>(v, unit, ready, x);
    for t in 0..T {
        let x = &x.pairs[t];
        if adds::<F>() {
            let sum = if F::GROUP == 32 { v.eight(eight_of(&x.sum[0], at)) } else { v.floats(&x.sum[at]) };
            sums.plus[r][t] = v.fma(plus, sum, sums.plus[r][t]);
        }
        let scale = v.mul(by_16, v.floats(&x.scale[at]));
        let chain = &mut sums.products[r][t][0];
        *chain = v.fma(v.to_floats(products[t]), scale, *chain);
    }
}

/// Sums of 16 neighbours.
#[inline(always)]
fn products_of<V: Simd, F: Codes, const T: usize>(
    v: V,
    unit: &[u8],
    ready: &Ready<V>,
    x: Meets<'_, T>,
) -> [V::Ints; T] {
    if by_fourths::<V, F>() {
        let mut sums = [v.start_group(false, 32, 0); T];
        add_fourth::<V, F, T>(v, 0, unit, ready, x, &mut sums);
        add_fourth::<V, F, T>(v, 1, unit, ready, x, &mut sums);
        add_fourth::<V, F, T>(v, 2, unit, ready, x, &mut sums);
        add_fourth::<V, F, T>(v, 3, unit, ready, x, &mut sums);
        return sums;
    }
    let mut sums = of_two_parts::<V, F, T>(v, 0, unit, ready, x);
    let others = of_two_parts::<V, F, T>(v, 2, unit, ready, x);
    for t in 0..T {
        sums[t] = v.sixteens(sums[t], others[t]);
    }
    sums
}

/// Every fourth weight, which adds to the same sums.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // several arrays go along; iterators would hide it
fn add_fourth<V: Simd, F: Codes, const T: usize>(
    v: V,
    part: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: Meets<'_, T>,
    sums: &mut [V::Ints; T],
) {
    let codes = F::codes(v, unit, ready, part);
    for t in 0..T {
        let these = v.load(&x.pairs[t].q[x.unit], 64 * part);
        let these = if F::SIGNS { v.negate_fourths(ready.signs, part, these) } else { these };
        sums[t] = v.dot(false, sums[t], codes, these);
    }
}

/// Sums of parts `first` and the next, as early as possible, because those of two tokens take all registers of AVX2.
#[inline(always)]
fn of_two_parts<V: Simd, F: Codes, const T: usize>(
    v: V,
    first: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: Meets<'_, T>,
) -> [V::Ints; T] {
    let mut sums = part::<V, F, T>(v, first, unit, ready, x);
    let others = part::<V, F, T>(v, first + 1, unit, ready, x);
    for t in 0..T {
        sums[t] = v.of_two_parts(sums[t], others[t]);
    }
    sums
}

/// 64 neighbours.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // several arrays go along; iterators would hide it
fn part<V: Simd, F: Codes, const T: usize>(
    v: V,
    part: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: Meets<'_, T>,
) -> [V::Ints; T] {
    let codes = codes::<V, F>(v, unit, ready, part);
    let mut sums = [v.start_group(false, 32, 0); T];
    for t in 0..T {
        let these = v.load(&x.pairs[t].q[x.unit], 64 * part);
        let these = if F::SIGNS { v.negate(ready.signs, part, these) } else { these };
        sums[t] = v.products(codes, these);
        v.in_turn(sums[t]);
    }
    sums
}

#[inline(always)]
fn negate<V: Simd, F: Codes>(v: V, ready: &Ready<V>, part: usize, b: V::Bytes) -> V::Bytes {
    if by_fourths::<V, F>() { v.negate_fourths(ready.signs, part, b) } else { v.negate(ready.signs, part, b) }
}

/// The codes of a unit in the order of the weights.
#[inline(always)]
pub(super) fn codes_in_order<V: Simd, F: Codes>(v: V, unit: &[u8], ready: &Ready<V>) -> [V::Bytes; 4] {
    let parts = [
        codes_of::<V, F>(v, unit, ready, 0),
        codes_of::<V, F>(v, unit, ready, 1),
        codes_of::<V, F>(v, unit, ready, 2),
        codes_of::<V, F>(v, unit, ready, 3),
    ];
    if by_fourths::<V, F>() { v.interleave(parts) } else { parts }
}

/// Codes with their signs and offset.
#[inline(always)]
fn codes_of<V: Simd, F: Codes>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
    let codes = F::codes(v, unit, ready, part);
    if F::SIGNS { v.add(negate::<V, F>(v, ready, part, codes), F::OFFSET) } else { codes }
}
