//! Many tokens and BF16 weights on CPUs with a BF16 dot product: twice the multiply-adds of f32, for activations rounded
//! to BF16 (8 bits of precision), as llama.cpp does. Sums are f32. Numbers come in pairs, summed by one instruction.

use super::{Cut, PIECE, Part, Place, piece_start};
use crate::Result;
use crate::cpu::memory::{Scratch, Split};
use crate::cpu::simd::{Bf16Op, Simd, dispatch_bf16};
use crate::cpu::tile::{Numbers, Panel, Sums, WIDTH, multiply};
use crate::cpu::{Avx512, Avx512Bf16, Cpu, Isa};
use std::arch::x86_64::*;

/// That the CPU has the instruction and the user allows it.
#[derive(Clone, Copy)]
pub(super) struct Proof {
    simd: Avx512,
    bf16: Avx512Bf16,
}

impl Proof {
    pub(super) fn new(isa: Isa) -> Option<Self> {
        (isa >= Isa::Avx512).then_some(())?;
        Some(Proof { simd: Avx512::new()?, bf16: Avx512Bf16::new()? })
    }
}

/// Rows of weights that a tile takes.
const ROWS: usize = WIDTH * Avx512::LANES;

/// See [`super::many::matmul`]; a piece is [`PIECE`] pairs.
pub(super) fn matmul(cpu: &Cpu, proof: Proof, x: &[f32], n: usize, parts: &[Part<'_>]) -> Result<()> {
    let Some(cols) = parts.first().map(|p| p.cols) else { return Ok(()) };
    let pieces = cols.div_ceil(2 * PIECE);
    cpu.workspace.with(pieces * n * PIECE, |packed| {
        let to = Split::new(packed);
        cpu.pool.run(n, |row| {
            for (piece, from) in x[row * cols..][..cols].chunks(2 * PIECE).enumerate() {
                // SAFETY: this row of this piece belongs to this item alone.
                let to = unsafe { to.slice(piece_start(n, piece) + row * PIECE, PIECE) };
                dispatch_bf16(proof.simd, proof.bf16, Round { from, to });
            }
        });
        let packed = &*packed;
        let cut = Cut::new(cpu, parts, n, ROWS, Avx512::ROWS);
        cpu.pool.run(cut.items, |item| {
            let tiles = Tiles { place: cut.item(parts, n, ROWS, item), x: packed, n };
            dispatch_bf16(proof.simd, proof.bf16, tiles);
        });
    })
}

/// Rounds to pairs, with a zero behind an odd number.
struct Round<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Bf16Op for Round<'_> {
    #[inline(always)]
    fn run(self, s: Avx512, _: Avx512Bf16) {
        let Round { from, to } = self;
        assert!(from.len().div_ceil(Avx512::LANES) * (Avx512::LANES / 2) <= to.len(), "room for whole vectors");
        for (from, to) in from.chunks(Avx512::LANES).zip(to.chunks_mut(Avx512::LANES / 2)) {
            // SAFETY: there are proofs; the chunks are a vector or less, and half a vector.
            unsafe {
                let v = if from.len() == Avx512::LANES {
                    s.load(from.as_ptr())
                } else {
                    s.load_part(from.as_ptr(), from.len())
                };
                let halves: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
                _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
            }
        }
    }
}

/// Pairs of brain floats.
#[derive(Clone, Copy)]
struct Pairs(#[allow(dead_code)] Avx512Bf16);

impl Numbers<Avx512> for Pairs {
    type Panel = u32;
    type Row = u32;
    type V = __m512i;
    type Spread = __m512i;

    #[inline(always)]
    unsafe fn load(self, _: Avx512, from: *const u32) -> __m512i {
        // SAFETY: readable by the caller's promise; there is a proof of AVX-512.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn spread(self, _: Avx512, x: u32) -> __m512i {
        // SAFETY: there is a proof.
        unsafe { _mm512_set1_epi32(x.cast_signed()) }
    }

    #[inline(always)]
    fn multiply_add(self, _: Avx512, a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: there is a proof of the instruction; both types are 64 bytes without meaning.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
}

/// One item.
struct Tiles<'p, 'a> {
    place: Place<'p, 'a>,
    x: &'p [f32],
    n: usize,
}

impl Bf16Op for Tiles<'_, '_> {
    #[inline(always)]
    fn run(self, s: Avx512, bf16: Avx512Bf16) {
        let Place { part, row, first, tokens } = self.place;
        let cols = part.cols;
        let rows = ROWS.min(part.rows - row);
        let mut scratch = Scratch::of(tokens * ROWS + 2 * ROWS * PIECE);
        let (sums, scratch) = scratch.floats().split_at_mut(tokens * ROWS);
        let (panel, copied) = scratch.split_at_mut(ROWS * PIECE);
        copied.fill(0.0); // rows that are not there, and what is behind the last column
        for (piece, start) in (0..cols).step_by(2 * PIECE).enumerate() {
            let count = (2 * PIECE).min(cols - start);
            let steps = count.div_ceil(2);
            for (r, to) in copied.chunks_exact_mut(PIECE).enumerate().take(rows) {
                let from = &part.bytes[(row + r) * part.row_bytes()..][..part.row_bytes()];
                for line in (0..4 * PIECE).step_by(64) {
                    s.prefetch(from.as_ptr().wrapping_add(2 * start + 4 * PIECE + line)); // the next piece
                }
                let from = &from[2 * start..][..2 * count];
                if count % 2 == 1 {
                    to[steps - 1] = 0.0;
                }
                // SAFETY: a row has room for `2 * PIECE` brain floats.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast(), from.len()) };
            }
            let x = &self.x[piece_start(self.n, piece) + first * PIECE..][..tokens * PIECE];
            // SAFETY: squares inside `(ROWS, PIECE)` and `(PIECE, ROWS)`. The panel has a row of ROWS pairs for each step,
            // `x` has `tokens` rows of PIECE, `sums` as many of ROWS.
            unsafe {
                for half in 0..WIDTH {
                    for k in (0..steps).step_by(Avx512::LANES) {
                        let from = copied.as_ptr().add(half * Avx512::LANES * PIECE + k);
                        s.transpose(from, PIECE, panel.as_mut_ptr().add(k * ROWS + half * Avx512::LANES), ROWS);
                    }
                }
                let panel = Panel { at: panel.as_ptr().cast::<u32>(), step: ROWS, vector: Avx512::LANES };
                let sums = Sums { at: sums.as_mut_ptr(), stride: ROWS, add: piece > 0 };
                multiply::<Avx512, Pairs, PIECE>(s, Pairs(bf16), steps, panel, tokens, x.as_ptr().cast::<u32>(), sums);
            }
        }
        for (token, sums) in sums.chunks_exact(ROWS).enumerate() {
            // SAFETY: these rows of these tokens belong to this item alone.
            unsafe { part.put(first + token, row, &sums[..rows]) };
        }
    }
}
