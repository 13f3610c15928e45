//! Products with few tokens (generation): rows of weights are read once, where they lie.
//!
//! Bound by memory, so what counts is instructions per byte, and that bytes come in time:
//! - two units are taken together, so that a register holds the scales of sixteen groups of 32; integer sums of 64 or 128 weights
//!   ([`Order`]) become floats in one instruction, and lanes are summed only where a row ends;
//! - the loop over whole units calls nothing and copies nothing. (With the incomplete unit inside of it, sums went to the
//!   stack and back in every step, because a copy might have been made: half the speed);
//! - one row after the other: memory is read in one stream, and asked for some way [`Ahead`]: the processor itself looks ahead only within a page of 4 KiB.
//!
//! Tried on Zen 5 with Q8_0, as shares of what a plain sum reads in the same minute, with one thread from huge pages, one from a
//! mapped file and two from the file:
//!
//! | rows | asked for in advance | | | |
//! |---|---|---|---|---|
//! | four side by side | the same place of the next four | 82% | 85% | 77% |
//! | four | the next four in the order of memory | 85% | 86% | 78% |
//! | one | 1 KiB | 76% | 78% | 83% |
//! | one | 2 KiB | 82% | 84% | 90% |
//! | one | 4 KiB | 91% | 94% | 92% |
//! | one | 8 KiB | 95% | 93% | 91% |
//! | one | 8 KiB, into the second-level cache | 89% | 93% | 91% |
//!
//! Prefetching past the second-level cache (NTA) does the same. In the cache all of these do 79 to 87 GB/s, twice what
//! memory gives, so it is not arithmetic that differs.

use super::order::Order;
use super::panel::{UNIT, Unit};
use super::simd::{Kernel, Lines, Simd};
use super::view::{Kind, Magnitudes, Minus, Pair, View};
use super::{Codes, Ready, sixteens};
use crate::cpu::ahead::Ahead;
use std::marker::PhantomData;

/// Rows of one weight and the activations that they meet.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Few<'a> {
    /// Whole rows.
    pub(in crate::cpu) bytes: &'a [u8],
    pub(in crate::cpu) row_bytes: usize,
    pub(in crate::cpu) cols: usize,
    /// `(units, tokens)`, an even number of units.
    pub(in crate::cpu) x: &'a [Unit],
}

/// Most bytes of a unit in any format.
pub(super) const MOST_BYTES: usize = 272;

/// The last, incomplete unit of a row: its blocks, then zeros. What zeros decode to does not matter, because the
/// activations there are zeros.
#[inline(always)]
pub(super) fn last_unit<F: Codes>(row: &[u8], whole: usize, unit: &mut [u8; MOST_BYTES]) {
    let rest = &row[whole * F::BYTES..];
    unit[..rest.len()].copy_from_slice(rest);
}

/// [`Few`] for `T` tokens, `R` rows at a time.
///
/// The results, `(rows, tokens)`, have room for a multiple of `R` rows.
pub(super) struct Rows<'a, F, const R: usize, const T: usize>(
    pub(super) Few<'a>,
    pub(super) &'a mut View,
    pub(super) &'a mut [f32],
    pub(super) PhantomData<F>,
);

impl<F: Codes, const R: usize, const T: usize> Kernel for Rows<'_, F, R, T> {
    #[inline(always)]
    fn run<V: Simd>(self, v: V) {
        const { assert!(F::OFFSET == 0 || F::OFFSET.is_power_of_two()) };
        const { assert!(F::BYTES <= MOST_BYTES && (F::GROUP == 16 || F::GROUP == 32)) };
        const { assert!(!by_sixteen::<F>() || F::OFFSET < 128) };
        const { assert!(T == 1 || T == 2 || T == 4) };
        let Few { bytes, row_bytes, cols, x } = self.0;
        self.1.fill(x, T, kind::<V, F>());
        let View { pairs, minus, magnitudes } = &*self.1;
        let x = All { pairs: pairs.as_chunks().0, minus: minus.as_chunks().0, magnitudes: magnitudes.as_chunks().0 };
        let (rows, whole) = (bytes.len() / row_bytes, cols / (2 * UNIT));
        assert!(x.pairs.len() == cols.div_ceil(2 * UNIT), "as many activations as the rows have weights");
        let ahead = Ahead::here();
        let by = if R == 1 { ahead.by } else { R * row_bytes };
        for (r, out) in (0..rows).step_by(R).zip(self.2.chunks_exact_mut(R * T)) {
            let mut starts = [0; R];
            for (i, start) in starts.iter_mut().enumerate() {
                *start = (r + i).min(rows - 1) * row_bytes; // at the end, the last row several times
            }
            let mut sums = Sums::<V, R, T>::new(v);
            let mut pairs = starts.map(|start| bytes[start..start + whole * 2 * F::BYTES].chunks_exact(2 * F::BYTES));
            for i in 0..whole {
                let x = x.meets::<V, F>(i, 0);
                let mut units: [&[u8]; R] = [&[]; R];
                for (unit, pairs) in units.iter_mut().zip(&mut pairs) {
                    *unit = pairs.next().expect("as many pairs of units as were counted");
                    ahead.ask(unit.as_ptr().wrapping_add(by), 2 * F::BYTES);
                }
                units_of::<V, F, R, T, 2>(v, &units, x, UNIT / F::GROUP, &mut sums);
            }
            // One unit is left, or two; the last may be incomplete.
            for u in 0..(cols % (2 * UNIT)).div_ceil(UNIT) {
                let at = (2 * whole + u) * F::BYTES;
                let left = Left { bytes: row_bytes - at, weights: cols - (2 * whole + u) * UNIT };
                let x = x.meets::<V, F>(whole, u);
                unit_at_the_end::<V, F, R, T>(v, bytes, starts.map(|start| start + at), left, x, &mut sums);
            }
            sums.put::<F>(v, out);
        }
    }
}

/// A [`View`] for `T` tokens.
#[derive(Clone, Copy)]
struct All<'a, const T: usize> {
    pairs: &'a [[Pair; T]],
    minus: &'a [[Minus; T]],
    magnitudes: &'a [[Magnitudes; T]],
}

impl<'a, const T: usize> All<'a, T> {
    /// Pair `i` of units, from one of its units on.
    #[inline(always)]
    fn meets<V: Simd, F: Codes>(self, i: usize, unit: usize) -> Meets<'a, T> {
        let Kind { minus, magnitudes, .. } = kind::<V, F>();
        Meets {
            pairs: &self.pairs[i],
            minus: if minus { &self.minus[i] } else { const { &[Lines([[[0; 16]; 4]; 2]); T] } },
            magnitudes: if magnitudes { &self.magnitudes[i] } else { const { &[Lines([[0; UNIT]; 2]); T] } },
            unit,
        }
    }
}

/// Activations that one or two units meet. What their format has no use for is zeros.
#[derive(Clone, Copy)]
pub(super) struct Meets<'a, const T: usize> {
    pub(super) pairs: &'a [Pair; T],
    minus: &'a [Minus; T],
    magnitudes: &'a [Magnitudes; T],
    /// Which unit of the pairs the first one meets.
    pub(super) unit: usize,
}

impl<const T: usize> Meets<'_, T> {
    /// Unit `k` of them.
    #[inline(always)]
    pub(super) fn next(self, k: usize) -> Self {
        Meets { unit: self.unit + k, ..self }
    }
}

/// Whether codes of eight bits stand for `code - 128`.
const fn eight<F: Codes>() -> bool {
    F::OFFSET == 128
}

/// What the format reads of activations.
#[inline(always)]
fn kind<V: Simd, F: Codes>() -> Kind {
    Kind {
        order: if sixteens::by_fourths::<V, F>() { Order::Fourths } else { F::ORDER },
        scales: if by_sixteen::<F>() { 16 } else { 32 },
        sums: F::GROUP,
        minus: eight::<F>() && V::WHOLE_BYTES,
        magnitudes: F::LEVELS && !V::WHOLE_BYTES,
    }
}

/// What a row has left.
#[derive(Clone, Copy)]
struct Left {
    bytes: usize,
    weights: usize,
}

/// A unit at the end of rows, which may be incomplete.
///
/// What the next row holds is read with it: activations are zeros there, and so are the scales that they meet, since an infinite
/// one must spoil its own row alone. At the end of all rows, zeros are put behind a copy. (Copies for every row,
/// and two units where there is one, took a third to two thirds of the speed of models with rows of 256 to 1024 weights.)
#[inline(always)]
fn unit_at_the_end<V: Simd, F: Codes, const R: usize, const T: usize>(
    v: V,
    bytes: &[u8],
    starts: [usize; R],
    left: Left,
    x: Meets<'_, T>,
    sums: &mut Sums<V, R, T>,
) {
    let mut copies;
    let mut units: [&[u8]; R] = [&[]; R];
    if starts[R - 1] + F::BYTES <= bytes.len() {
        for (unit, start) in units.iter_mut().zip(starts) {
            *unit = &bytes[start..start + F::BYTES];
        }
    } else {
        copies = [[0; MOST_BYTES]; R];
        for ((copy, unit), start) in copies.iter_mut().zip(&mut units).zip(starts) {
            copy_of(&bytes[start..start + left.bytes.min(F::BYTES)], copy);
            *unit = &copy[..F::BYTES];
        }
    }
    let groups = left.weights.min(UNIT).div_ceil(F::GROUP);
    units_of::<V, F, R, T, 1>(v, &units, x, groups, sums);
}

/// Apart, so that what is rarely needed takes no registers.
#[cold]
#[inline(never)]
fn copy_of(unit: &[u8], copy: &mut [u8; MOST_BYTES]) {
    copy[..unit.len()].copy_from_slice(unit);
}

/// Whether [`Codes::multiples`] are taken.
pub(super) const fn multiplied<V: Simd, F: Codes>() -> bool {
    V::WHOLE_BYTES || F::SMALL_MULTIPLES
}

/// What the codes of each quarter of a register are multiplied with.
#[inline(always)]
fn times<V: Simd, F: Codes>() -> [u8; 4] {
    if multiplied::<V, F>() { F::TIMES } else { [1; 4] }
}

/// Sums of 4 that do not wait for each other. (With two, Q4_K is as fast, and IQ4_XS and TQ2_0 are a tenth slower.)
const CHAINS: usize = 4;

pub(super) struct Sums<V: Simd, const R: usize, const T: usize> {
    /// With several tokens, some chains are left out.
    pub(super) products: [[[V::Floats; CHAINS]; T]; R],
    /// Lanes are groups here.
    pub(super) plus: [[V::Floats; T]; R],
}

impl<V: Simd, const R: usize, const T: usize> Sums<V, R, T> {
    #[inline(always)]
    fn new(v: V) -> Self {
        Sums { products: [[[v.splat(0.0); CHAINS]; T]; R], plus: [[v.splat(0.0); T]; R] }
    }

    /// To memory, `(rows, tokens)`.
    #[inline(always)]
    fn put<F: Codes>(&self, v: V, out: &mut [f32]) {
        for r in 0..R {
            for t in 0..T {
                let [a, b, c, d] = self.products[r][t];
                let mut sum = match T {
                    1 => v.add_floats(v.add_floats(a, b), v.add_floats(c, d)),
                    2 => v.add_floats(a, b),
                    _ => a,
                };
                if times::<V, F>() != [1; 4] {
                    let quarters = times::<V, F>().map(|times| 1.0 / f32::from(times));
                    let mut inverse = [0.0; 16];
                    for (i, x) in inverse.iter_mut().enumerate() {
                        *x = quarters[if by_sixteen::<F>() { i % 4 } else { i / 4 }];
                    }
                    sum = v.mul(sum, v.floats(&inverse));
                }
                if adds::<F>() {
                    let mut plus = self.plus[r][t];
                    if !F::PLUS {
                        plus = v.mul(plus, v.splat(-f32::from(F::OFFSET)));
                    }
                    sum = v.add_floats(sum, plus);
                }
                out[r * T + t] = v.sum(sum);
            }
        }
    }
}

/// One or two units of each row; of one, only the first `groups` groups count.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // several arrays go along; iterators would hide it
fn units_of<V: Simd, F: Codes, const R: usize, const T: usize, const N: usize>(
    v: V,
    units: &[&[u8]; R],
    x: Meets<'_, T>,
    groups: usize,
    sums: &mut Sums<V, R, T>,
) {
    const { assert!(N == 1 || N == 2) };
    for (r, units) in units.iter().enumerate() {
        let (a, b) = units.split_at(F::BYTES);
        if by_sixteen::<F>() {
            sixteens::units_of::<V, F, R, T, N>(v, r, [a, b], x, groups, sums);
            continue;
        }
        // Instead of a second unit the first once more, which meets zeros.
        let of_all = F::scales_of_two(v, a, if N == 2 { b } else { a });
        let of_all = if N == 2 { of_all } else { counting::<V, F>(v, groups, of_all) };
        let (scale, plus) = with_offset::<V, F>(v, of_all);
        let mut scales = [v.no_scales(); T];
        for t in 0..T {
            let (of_x, sum) = (&x.pairs[t].scale[0], &x.pairs[t].sum[0]);
            let of_x = if N == 2 { v.floats(of_x) } else { v.eight(eight_of(of_x, x.unit)) };
            v.put_scales(v.mul(scale, of_x), &mut scales[t]);
            if adds::<F>() {
                let sum = if N == 2 { v.floats(sum) } else { v.eight(eight_of(sum, x.unit)) };
                sums.plus[r][t] = v.fma(plus, sum, sums.plus[r][t]);
            }
        }
        let (sums, none) = (&mut sums.products[r], Ready::nothing(v));
        parts::<V, F, T>(v, 0, a, &none, x, &scales, sums);
        if N == 2 {
            parts::<V, F, T>(v, 8, b, &none, x.next(1), &scales, sums);
        }
    }
}

/// Whether integer sums are those of 16 neighbours, see [`sixteens`], and not of 4 or 8.
const fn by_sixteen<F: Codes>() -> bool {
    F::BOOK > 0 || F::GROUP == 16
}

/// Those of the first unit of two, or of the second.
#[inline(always)]
pub(super) fn eight_of(both: &[f32; 16], unit: usize) -> &[f32; 8] {
    &both.as_chunks().0[unit]
}

/// Whether offsets are taken off with what is added to all weights of a group: one multiplication for all, where integer sums
/// that begin with the offset take a load and a shift for every 64 weights, and an addition with AVX2. (Not those of 128: what cancels
/// would be more than what remains, and the figures would lose a digit.)
const fn offset_is_added<F: Codes>() -> bool {
    F::OFFSET > 0 && F::OFFSET < 128 && !F::SIGNS
}

/// Whether something is added to all weights of a group.
pub(super) const fn adds<F: Codes>() -> bool {
    F::PLUS || offset_is_added::<F>()
}

/// Scales, and what is added, with the offset. Where nothing else is added, the row's sum is multiplied with it in the end, which
/// gives the same bits because it is a power of two.
#[inline(always)]
pub(super) fn with_offset<V: Simd, F: Codes>(v: V, (scale, plus): (V::Floats, V::Floats)) -> (V::Floats, V::Floats) {
    let offset = v.splat(-f32::from(F::OFFSET));
    match (offset_is_added::<F>(), F::PLUS) {
        (true, true) => (scale, v.fma(scale, offset, plus)),
        (true, false) => (scale, scale),
        (false, _) => (scale, plus),
    }
}

/// Scales, and what is added, of the first groups.
#[inline(always)]
pub(super) fn counting<V: Simd, F: Codes>(
    v: V,
    groups: usize,
    (scale, plus): (V::Floats, V::Floats),
) -> (V::Floats, V::Floats) {
    (v.first(groups, scale), if F::PLUS { v.first(groups, plus) } else { plus })
}

/// A unit, whose scales are the lanes from `first` on.
#[inline(always)]
fn parts<V: Simd, F: Codes, const T: usize>(
    v: V,
    first: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: Meets<'_, T>,
    scales: &[V::Scales; T],
    sums: &mut [[V::Floats; CHAINS]; T],
) {
    part::<V, F, T>(v, 0, first, unit, ready, x, scales, sums);
    part::<V, F, T>(v, 2, first, unit, ready, x, scales, sums);
    if F::ORDER.together() == 1 {
        part::<V, F, T>(v, 1, first, unit, ready, x, scales, sums);
        part::<V, F, T>(v, 3, first, unit, ready, x, scales, sums);
    }
}

/// 64 weights of a unit, or 128 that share lanes.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a piece of the function above, written once
fn part<V: Simd, F: Codes, const T: usize>(
    v: V,
    part: usize,
    first: usize,
    unit: &[u8],
    ready: &Ready<V>,
    x: Meets<'_, T>,
    scales: &[V::Scales; T],
    sums: &mut [[V::Floats; CHAINS]; T],
) {
    let groups = F::ORDER.groups(F::GROUP, part, first);
    let these = codes::<V, F>(v, unit, ready, part);
    let others = if F::ORDER.together() == 2 { codes::<V, F>(v, unit, ready, part + 1) } else { these };
    for t in 0..T {
        let (q, more) = (&x.pairs[t].q[x.unit], &x.magnitudes[t][x.unit]);
        let at = |part| 64 * part;
        let mut sum = v.start_group(false, 32, 0);
        if eight::<F>() {
            sum = v.start(&x.minus[t][x.unit][part / F::ORDER.together()]);
        }
        sum = match (F::ORDER.together() == 2, F::LEVELS) {
            (true, true) => {
                let first = v.dot_levels(sum, these, v.load(q, at(part)), v.load(more, at(part)));
                v.dot_levels(first, others, v.load(q, at(part + 1)), v.load(more, at(part + 1)))
            }
            (true, false) => v.dot_two(sum, [[these, v.load(q, at(part))], [others, v.load(q, at(part + 1))]]),
            (false, _) => v.dot(eight::<F>(), sum, these, v.load(q, at(part))),
        };
        let chain = &mut sums[t][(part + first / 8) % (CHAINS / T)];
        *chain = v.fma(v.to_floats(sum), v.spread(groups, &scales[t]), *chain);
    }
}

/// Codes, or multiples of them. (Not a closure: intrinsics would become calls in it.)
#[inline(always)]
pub(super) fn codes<V: Simd, F: Codes>(v: V, unit: &[u8], ready: &Ready<V>, part: usize) -> V::Bytes {
    if multiplied::<V, F>() { F::multiples(v, unit, ready, part) } else { F::codes(v, unit, ready, part) }
}
