//! Products with few tokens for formats with codebooks: integer sums of 16 neighbours, a lane each, so that a unit of 256 weights takes
//! one conversion to floats and one multiplication with scales, and these need not be spread.
//!
//! (Sums of four with spread scales, as other formats have them, took 8 conversions, 8 permutations and 8 additions for two units, a
//! third of the instructions of IQ2_XXS with VBMI.)

use super::few::{Sums, adds, counting, with_offset};
use super::panel::Unit;
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
    x: &[&[Unit; T]; 2],
    groups: usize,
    sums: &mut Sums<V, R, T>,
) {
    if N == 2 {
        // Both before all else: it takes long, and the processor does not look so far ahead.
        let ready = F::ready_of_two(v, units[0], units[1]);
        v.signs_in_turn(ready[0].signs, ready[1].signs);
        unit_of::<V, F, R, T, N>(v, r, 0, units[0], &ready[0], x[0], groups, sums);
        unit_of::<V, F, R, T, N>(v, r, 1, units[1], &ready[1], x[1], groups, sums);
        return;
    }
    unit_of::<V, F, R, T, N>(v, r, 0, units[0], &F::ready_of_one(v, units[0]), x[0], groups, sums);
}

/// Unit `k` of one or two.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a piece of the function above, written once
fn unit_of<V: Simd, F: Codes, const R: usize, const T: usize, const N: usize>(
    v: V,
    r: usize,
    k: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: &[Unit; T],
    groups: usize,
    sums: &mut Sums<V, R, T>,
) {
    let of_all = F::scales(v, unit);
    let of_all = if N == 2 { of_all } else { counting::<V, F>(v, groups, of_all) };
    let (scale, plus) = with_offset::<V, F>(v, of_all);
    let by_16 = if F::GROUP == 32 { v.twice(scale) } else { scale };
    let products = products_of::<V, F, T>(v, unit, ready, x);
    for t in 0..T {
        let x = &x[t];
        if adds::<F>() {
            let sum = if F::GROUP == 32 { v.eight(&x.sum) } else { v.floats(&x.sum16) };
            sums.plus[r][t] = v.fma(plus, sum, sums.plus[r][t]);
        }
        let scale = v.mul(by_16, v.floats(&x.scale16));
        let chain = &mut sums.products[r][t][if T == 4 { 0 } else { k }];
        *chain = v.fma(v.to_floats(products[t]), scale, *chain);
    }
}

/// Sums of 16 neighbours.
#[inline(always)]
fn products_of<V: Simd, F: Codes, const T: usize>(v: V, unit: &[u8], ready: &Ready<V>, x: &[Unit; T]) -> [V::Ints; T] {
    let zero = v.start_group(false, 32, 0);
    let mut parts = [[zero; 4]; T];
    part::<V, F, T>(v, 0, unit, ready, x, &mut parts);
    part::<V, F, T>(v, 1, unit, ready, x, &mut parts);
    part::<V, F, T>(v, 2, unit, ready, x, &mut parts);
    part::<V, F, T>(v, 3, unit, ready, x, &mut parts);
    let mut sums = [zero; T];
    for t in 0..T {
        sums[t] = if by_fourths::<V, F>() { parts[t][0] } else { v.sixteens(parts[t]) };
    }
    sums
}

/// 64 weights. Every fourth weight adds to the same sums.
#[inline(always)]
fn part<V: Simd, F: Codes, const T: usize>(
    v: V,
    part: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: &[Unit; T],
    sums: &mut [[V::Ints; 4]; T],
) {
    let codes = F::codes(v, unit, ready, part);
    for t in 0..T {
        let these = v.load(if by_fourths::<V, F>() { &x[t].fourths } else { &x[t].q }, 64 * part);
        let these = if F::SIGNS { negate::<V, F>(v, ready, part, these) } else { these };
        let sum = &mut sums[t][if by_fourths::<V, F>() { 0 } else { part }];
        *sum = v.dot(false, *sum, codes, these);
        v.in_turn(*sum);
    }
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
