//! Activations and weights as brain floats, in the order in which registers take them; see [`super::tiles`].

use super::super::products::{ROWS, UNIT, Unpacked};
use super::super::simd::Simd;
use super::tiles::{BLOCK, PANEL, STEP, TOKENS};
use crate::cpu::{Amx, Avx512};
use std::arch::x86_64::*;

/// A block: columns `start ..` of tokens `first ..` of `x`, `(tokens, cols)`; zeros where there are none. `rest`: what rounding left, as
/// brain floats again.
pub(super) fn round(
    _: Amx,
    x: &[f32],
    cols: usize,
    first: usize,
    start: usize,
    to: &mut [f32],
    rest: Option<&mut [f32]>,
) {
    type Blocks = [[[f32; 16]; TOKENS]];
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    fn compiled(x: &[f32], cols: usize, first: usize, start: usize, to: &mut Blocks, mut rest: Option<&mut Blocks>) {
        for token in 0..TOKENS {
            let row = x.get((first + token) * cols..(first + token + 1) * cols).unwrap_or_default();
            for (step, to) in to.iter_mut().enumerate() {
                let at = start + STEP * step;
                let numbers = [sixteen(row, at), sixteen(row, at + 16)];
                let both = rounded(numbers);
                store(&mut to[token], both);
                if let Some(rest) = &mut rest {
                    store(&mut rest[step][token], left(numbers, both));
                }
            }
        }
    }
    assert!(to.len() == BLOCK && rest.as_ref().is_none_or(|rest| rest.len() == BLOCK), "a block is whole");
    let rest = rest.map(|rest| rest.as_chunks_mut().0.as_chunks_mut().0);
    // SAFETY: there is a proof.
    unsafe { compiled(x, cols, first, start, to.as_chunks_mut().0.as_chunks_mut().0, rest) }
}

/// Brain floats of the first, then of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded([a, b]: [__m512; 2]) -> __m512i {
    // SAFETY: both are 64 bytes.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(b, a)) }
}

/// Brain floats of what rounding left: of what is not finite, nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn left([a, b]: [__m512; 2], rounded_both: __m512i) -> __m512i {
    let left = |x, rounded| {
        let left = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded))));
        _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(left, left), left)
    };
    let halves = (_mm512_castsi512_si256(rounded_both), _mm512_extracti64x4_epi64::<1>(rounded_both));
    rounded([left(a, halves.0), left(b, halves.1)])
}

/// `x[at .. at + 16]`, zeros behind the end.
#[inline]
#[target_feature(enable = "avx512f")]
fn sixteen(x: &[f32], at: usize) -> __m512 {
    let rest = &x[at.min(x.len())..];
    let there = if rest.len() < 16 { (1 << rest.len()) - 1 } else { 0xffff };
    // SAFETY: what is not there is not read.
    unsafe { _mm512_maskz_loadu_ps(there, rest.as_ptr()) }
}

/// A unit of packed weights.
pub(super) fn of_tile(_: Amx, tile: &Unpacked<'_>, panel: &mut [f32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[allow(clippy::needless_range_loop)] // an index of an inner array
    fn compiled(tile: &Unpacked<'_>, panel: &mut [[[[f32; 16]; 16]; 2]]) {
        let group = UNIT / tile.scales.len();
        let in_pairs: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
        // SAFETY: 64 bytes.
        let in_pairs = unsafe { _mm512_loadu_si512(in_pairs.as_ptr().cast()) };
        for half in 0..2 {
            for (g, scales) in tile.scales.iter().enumerate() {
                let scale = sixteen_of(scales, half);
                let plus = tile.plus.get(g).map_or(_mm512_setzero_ps(), |plus| sixteen_of(plus, half));
                let plus = _mm512_fnmadd_ps(scale, _mm512_set1_ps(tile.offset), plus);
                for four in g * group / 4..(g + 1) * group / 4 {
                    let codes = _mm512_castps_si512(sixteen_of(&tile.codes[four], half));
                    let to = &mut panel[four / 8][half];
                    let byte = _mm512_set1_epi32(0xff);
                    let a = _mm512_and_si512(codes, byte);
                    let b = _mm512_and_si512(_mm512_srli_epi32::<8>(codes), byte);
                    let c = _mm512_and_si512(_mm512_srli_epi32::<16>(codes), byte);
                    let d = _mm512_srli_epi32::<24>(codes);
                    store(&mut to[2 * four % 16], pairs(weights(a, scale, plus), weights(b, scale, plus), in_pairs));
                    store(
                        &mut to[2 * four % 16 + 1],
                        pairs(weights(c, scale, plus), weights(d, scale, plus), in_pairs),
                    );
                }
            }
        }
    }
    assert!(panel.len() == PANEL, "a panel is whole");
    // SAFETY: there is a proof.
    unsafe { compiled(tile, panel.as_chunks_mut().0.as_chunks_mut().0.as_chunks_mut().0) }
}

/// Those of rows `16 * half ..`.
#[inline]
#[target_feature(enable = "avx512f")]
fn sixteen_of(of_all: &[u32; ROWS], half: usize) -> __m512 {
    // SAFETY: an array of as many bytes.
    unsafe { _mm512_castsi512_ps(_mm512_loadu_si512(of_all.as_chunks::<16>().0[half].as_ptr().cast())) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn weights(codes: __m512i, scale: __m512, plus: __m512) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), scale, plus)
}

/// Brain floats of both, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs(first: __m512, second: __m512, in_pairs: __m512i) -> __m512i {
    _mm512_permutexvar_epi16(in_pairs, rounded([first, second]))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(to: &mut [f32; 16], pairs: __m512i) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs) };
}

/// Pairs of a unit's columns.
const PAIRS: usize = UNIT / 2;

/// A unit of rows of brain floats, `bytes` being at most [`ROWS`] whole ones.
pub(super) fn of_rows(_: Amx, bytes: &[u8], row_bytes: usize, unit: usize, panel: &mut [f32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn compiled(s: Avx512, bytes: &[u8], row_bytes: usize, unit: usize, panel: &mut [f32]) {
        let mut rows = [[0f32; PAIRS]; 16];
        for half in 0..2 {
            for (r, to) in rows.iter_mut().enumerate() {
                copy(bytes, row_bytes, 16 * half + r, unit, to);
            }
            put(s, &rows, half, panel);
        }
    }
    assert!(panel.len() == PANEL, "a panel is whole");
    let Some(s) = Avx512::new() else { unreachable!("the proof of AMX proves this") };
    // SAFETY: there is a proof.
    unsafe { compiled(s, bytes, row_bytes, unit, panel) }
}

/// A unit of rows of half-precision floats: their brain floats, and those of the rest. Together they are the same numbers, since halves have
/// 11 bits and two brain floats 16.
pub(super) fn of_halves(_: Amx, bytes: &[u8], row_bytes: usize, unit: usize, panel: &mut [f32], rest: &mut [f32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
    fn compiled(s: Avx512, bytes: &[u8], row_bytes: usize, unit: usize, panel: &mut [f32], rest: &mut [f32]) {
        let (mut rows, mut rests, mut halves) = ([[0f32; PAIRS]; 16], [[0f32; PAIRS]; 16], [0f32; PAIRS]);
        for half in 0..2 {
            for (r, (row, rest)) in rows.iter_mut().zip(&mut rests).enumerate() {
                copy(bytes, row_bytes, 16 * half + r, unit, &mut halves);
                let to = row.as_chunks_mut().0.iter_mut().zip(rest.as_chunks_mut().0);
                for (halves, (row, rest)) in halves.as_chunks::<16>().0.iter().zip(to) {
                    // SAFETY: 64 bytes.
                    let halves = unsafe { _mm512_loadu_si512(halves.as_ptr().cast()) };
                    let a = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
                    let b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves));
                    let both = rounded([a, b]);
                    store(row, both);
                    store(rest, left([a, b], both));
                }
            }
            put(s, &rows, half, panel);
            put(s, &rests, half, rest);
        }
    }
    assert!(panel.len() == PANEL && rest.len() == PANEL, "a panel is whole");
    let Some(s) = Avx512::new() else { unreachable!("the proof of AMX proves this") };
    // SAFETY: there is a proof.
    unsafe { compiled(s, bytes, row_bytes, unit, panel, rest) }
}

/// A unit of row `row`, of numbers of 16 bits; zeros where there are none.
#[inline]
fn copy(bytes: &[u8], row_bytes: usize, row: usize, unit: usize, to: &mut [f32; PAIRS]) {
    let row = bytes.get(row * row_bytes..(row + 1) * row_bytes).unwrap_or_default();
    let from = &row[(2 * UNIT * unit).min(row.len())..row.len().min(2 * UNIT * (unit + 1))];
    if from.len() < 2 * UNIT {
        *to = [0.0; PAIRS];
    }
    // SAFETY: there is room for as many numbers of 16 bits as a unit has.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) };
}

/// Sixteen rows, the first or the second half of a panel's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn put(s: Avx512, rows: &[[f32; PAIRS]; 16], half: usize, panel: &mut [f32]) {
    for (step, to) in panel.as_chunks_mut::<256>().0.chunks_exact_mut(2).enumerate() {
        // SAFETY: sixteen of the pairs of each row, and a register's numbers.
        unsafe { s.transpose(rows.as_ptr().cast::<f32>().add(16 * step), PAIRS, to[half].as_mut_ptr(), 16) };
    }
}
