//! Many tokens: tiles of f32.

use super::few::Stored;
use super::{Cut, PIECE, Part, Place, piece_start};
use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::memory::{Scratch, Split};
use crate::cpu::simd::{MOST_LANES, Op, Simd, dispatch};
use crate::cpu::tile::{Panel, Single, Sums, WIDTH, multiply};
use std::marker::PhantomData;

/// Weights that share activations.
pub(super) fn matmul(cpu: &Cpu, x: &[f32], n: usize, parts: &[Part<'_>]) -> Result<()> {
    let Some(cols) = parts.first().map(|p| p.cols) else { return Ok(()) };
    let pieces = cols.div_ceil(PIECE);
    cpu.workspace.with(pieces * n * PIECE, |packed| {
        let to = Split::new(packed);
        // (pieces, n, PIECE): a tile's rows lie side by side, in the first-level cache, and never fall on the same lines
        // of it, as rows a power of two apart would.
        cpu.pool.run(n, |row| {
            for (piece, from) in x[row * cols..][..cols].chunks(PIECE).enumerate() {
                // SAFETY: this row of this piece belongs to this item alone.
                let to = unsafe { to.slice(piece_start(n, piece) + row * PIECE, from.len()) };
                to.copy_from_slice(from);
            }
        });
        let packed = &*packed;
        let (width, tile) = dispatch(cpu.isa, Geometry);
        let cut = Cut::new(cpu, parts, n, width, tile);
        cpu.pool.run(cut.items, |item| {
            let tiles = Tiles { place: cut.item(parts, n, width, item), x: packed, n };
            (tiles.place.part.float.many)(cpu.isa, tiles);
        });
    })
}

/// Rows of weights that a tile takes, and tokens.
struct Geometry;

impl Op for Geometry {
    type Out = (usize, usize);

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (WIDTH * S::LANES, S::ROWS)
    }
}

/// One item.
pub(super) struct Tiles<'p, 'a> {
    place: Place<'p, 'a>,
    x: &'p [f32],
    n: usize,
}

/// [`Tiles`] of a format.
pub(super) struct Converted<'p, 'a, F>(pub(super) Tiles<'p, 'a>, pub(super) PhantomData<F>);

impl<F: Stored> Op for Converted<'_, '_, F> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.all::<S, F>(s);
    }
}

impl Tiles<'_, '_> {
    #[inline(always)]
    fn all<S: Simd, F: Stored>(&self, s: S) {
        let Place { part, row, first, tokens } = self.place;
        let (width, cols) = (WIDTH * S::LANES, part.cols);
        let rows = width.min(part.rows - row);
        let mut scratch = Scratch::of(tokens * width + width * PIECE * 2);
        let (sums, scratch) = scratch.floats().split_at_mut(tokens * width);
        let (panel, converted) = scratch.split_at_mut(width * PIECE);
        converted.fill(0.0); // rows that are not there, and columns behind the last
        for (piece, start) in (0..cols).step_by(PIECE).enumerate() {
            let steps = PIECE.min(cols - start);
            for r in 0..rows {
                let from = &part.bytes[(row + r) * part.row_bytes()..][..part.row_bytes()];
                for line in (0..PIECE * F::BYTES).step_by(64) {
                    s.prefetch(from.as_ptr().wrapping_add((start + PIECE) * F::BYTES + line)); // the next piece
                }
                convert::<S, F>(s, &from[start * F::BYTES..][..steps * F::BYTES], &mut converted[r * PIECE..][..steps]);
            }
            let x = &self.x[piece_start(self.n, piece) + first * PIECE..][..tokens * PIECE];
            // SAFETY: squares inside `(width, PIECE)` and `(PIECE, width)`: LANES divides both. The panel has a row of
            // `width` numbers for each step, `x` has `tokens` rows of PIECE, `sums` as many of `width`.
            unsafe {
                for half in 0..WIDTH {
                    for k in (0..steps).step_by(S::LANES) {
                        let from = converted.as_ptr().add(half * S::LANES * PIECE + k);
                        s.transpose(from, PIECE, panel.as_mut_ptr().add(k * width + half * S::LANES), width);
                    }
                }
                let panel = Panel { at: panel.as_ptr(), step: width, vector: S::LANES };
                let sums = Sums { at: sums.as_mut_ptr(), stride: width, add: piece > 0 };
                multiply::<S, Single, PIECE>(s, Single, steps, panel, tokens, x.as_ptr(), sums);
            }
        }
        for (token, sums) in sums.chunks_exact(width).enumerate() {
            // SAFETY: these rows of these tokens belong to this item alone.
            unsafe { part.put(first + token, row, &sums[..rows]) };
        }
    }
}

/// Stored numbers as floats.
#[inline(always)]
fn convert<S: Simd, F: Stored>(s: S, from: &[u8], to: &mut [f32]) {
    let len = to.len();
    assert!(from.len() == len * F::BYTES && S::LANES <= MOST_LANES, "as many numbers");
    let whole = len / S::LANES * S::LANES;
    // SAFETY: below `len` everywhere.
    unsafe {
        for k in (0..whole).step_by(S::LANES) {
            s.store(to.as_mut_ptr().add(k), F::load(s, from.as_ptr().add(k * F::BYTES)));
        }
        for (k, to) in to.iter_mut().enumerate().skip(whole) {
            *to = F::one(from.as_ptr().add(k * F::BYTES));
        }
    }
}
