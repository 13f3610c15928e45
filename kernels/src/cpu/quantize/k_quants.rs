//! Q2_K, Q3_K, Q4_K, Q5_K, Q6_K: the groups of a super-block, or of two, side by side.

use super::lanes::{Lanes, Mask};
use super::rows::{BLOCK, MOST, Piece, codes};
use super::search::{self, ALL_ZERO, Affine, Sweep};
use qconv_formats::block::Grid;

/// Most groups in a piece.
const GROUPS: usize = MOST / 16;

/// Q4_K and Q5_K: groups of 32.
#[inline(always)]
pub(super) fn four_five<F: Lanes>(piece: &Piece<F>, out: &mut [u8], top: f32, sweep: &Sweep) -> Option<()> {
    let isa = piece.isa;
    let x = piece.groups::<32>(0);
    let sigma2 = piece.sigma2::<32>(0, |sum| 2.0 * sum / 256.0);
    let (found, sums) = match piece.importance(0, &x, sigma2) {
        Some(w) => {
            let sums = search::sum(isa, &w).array();
            (search::affine::<F, 32, false>(isa, &x, &w, top, &Sweep::FINE)?, Some(sums))
        }
        None => {
            let mut w = x;
            for v in &mut w {
                *v = *v * *v;
            }
            let root = (search::sum(isa, &w) / F::all(isa, 32.0)).sqrt();
            for i in 0..32 {
                w[i] = root + x[i].abs();
            }
            (search::affine::<F, 32, false>(isa, &x, &w, top, sweep)?, None)
        }
    };
    let mut affine = Searched::default();
    affine.keep_affine(0, &found);
    affine.finish::<F, 32>(piece, sums.as_ref().map(|s| &s[..]), top, out);
    Some(())
}

/// Q2_K: groups of 16.
#[inline(always)]
pub(super) fn two<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    const PLAIN: Sweep = Sweep { from: -0.5, step: 0.1, last: 15 };
    let isa = piece.isa;
    let (mut all, mut sums) = (Searched::default(), [0.0; GROUPS]);
    for part in 0..2 {
        let x = piece.groups::<16>(part);
        let sigma2 = piece.sigma2::<16>(part, |sum| sum / 256.0);
        let found = match piece.importance(part, &x, sigma2) {
            Some(w) => {
                keep(&mut sums, part, search::sum(isa, &w));
                search::affine::<F, 16, false>(isa, &x, &w, 3.0, &Sweep::FINE)?
            }
            None => {
                let mut w = x;
                for v in &mut w {
                    *v = v.abs();
                }
                search::affine::<F, 16, true>(isa, &x, &w, 3.0, &PLAIN)?
            }
        };
        all.keep_affine(part, &found);
    }
    all.finish::<F, 16>(piece, piece.importance.map(|_| &sums[..]), 3.0, out);
    Some(())
}

/// Q6_K: groups of 16, weighted with the importance as it is, or with the squares.
#[inline(always)]
pub(super) fn six<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    let mut found = Searched::default();
    for part in 0..2 {
        let x = piece.groups::<16>(part);
        let mut w = x;
        match piece.plain_importance(part) {
            Some(importance) => w = importance,
            None => {
                for v in &mut w {
                    *v = *v * *v;
                }
            }
        }
        found.keep_symmetric(part, &search::symmetric(piece.isa, &x, &w, 32.0));
    }
    let grids = found.grids::<F, 16>(piece, None);
    let mut codes = found.symmetric_codes(piece, &grids, 32.0);
    for (codes, scales) in codes.chunks_exact_mut(BLOCK).zip(found.scale.chunks_exact(16)) {
        if !scales.iter().any(|s| s.abs() >= ALL_ZERO) {
            codes.fill(0); // the whole block is zero bytes where no scale is worth it
        }
    }
    pack(piece, &grids, &codes, out);
    Some(())
}

/// Q3_K: groups of 16.
#[inline(always)]
pub(super) fn three<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    let isa = piece.isa;
    let mut found = Searched::default();
    if piece.importance.is_some() {
        let mut sums = [0.0; GROUPS];
        for part in 0..2 {
            let x = piece.groups::<16>(part);
            let w = piece.importance(part, &x, piece.sigma2::<16>(part, |sum| 2.0 * sum / 256.0))?;
            keep(&mut sums, part, search::sum(isa, &w));
            found.keep_symmetric(part, &search::symmetric(isa, &x, &w, 4.0));
        }
        let grids = found.grids::<F, 16>(piece, Some(&sums));
        let codes = found.symmetric_codes(piece, &grids, 4.0);
        pack(piece, &grids, &codes, out);
    } else {
        let (scales, searched) = search::symmetric_by_descent(isa, &[piece.groups(0), piece.groups(1)]);
        keep(&mut found.scale, 0, scales[0]);
        keep(&mut found.scale, 1, scales[1]);
        let grids = found.grids::<F, 16>(piece, None);
        // Back from lanes to vectors: element `e` of group `g` lies in lane `g % LANES`.
        let all = |x: f32| F::all(isa, x);
        let codes = codes!(piece, |at, v: F| {
            let (g, scale) = (at / 16, grids[at / BLOCK].scale[at % BLOCK / 16]);
            if scale == 0.0 {
                let mut kept = [0.0; 16];
                for (e, code) in kept[..F::LANES].iter_mut().enumerate() {
                    *code = searched[g / F::LANES][at % 16 + e].array()[g % F::LANES];
                }
                F::load(isa, &kept)
            } else {
                ((v + all(0.0)) / all(scale)).nearest_anyhow().min(all(3.0)).max(all(-4.0)) + all(4.0)
            }
        });
        pack(piece, &grids, &codes, out);
    }
    Some(())
}

/// Keeps what was found for the `part`-th groups.
#[inline(always)]
fn keep<F: Lanes>(all: &mut [f32], part: usize, found: F) {
    all[part * F::LANES..][..F::LANES].copy_from_slice(&found.array()[..F::LANES]);
}

/// Writes super-blocks.
#[inline(always)]
fn pack<F: Lanes>(piece: &Piece<F>, grids: &[Grid; 2], codes: &[u8; MOST], out: &mut [u8]) {
    let blocks = out.chunks_exact_mut(piece.format.block_bytes).zip(codes.chunks_exact(BLOCK));
    for ((out, codes), grid) in blocks.zip(grids) {
        piece.coder().pack(grid, codes, out);
    }
}

/// What the searches found in the groups of a piece.
#[derive(Default)]
struct Searched {
    scale: [f32; GROUPS],
    minimum: [f32; GROUPS],
    inverse: [f32; GROUPS],
    start: [f32; GROUPS],
    flat: u32,
}

impl Searched {
    #[inline(always)]
    fn keep_symmetric<F: Lanes>(&mut self, part: usize, found: &search::Symmetric<F>) {
        keep(&mut self.scale, part, found.scale);
        keep(&mut self.inverse, part, found.inverse);
        self.flat |= found.flat.bits() << (part * F::LANES);
    }

    #[inline(always)]
    fn keep_affine<F: Lanes>(&mut self, part: usize, found: &Affine<F>) {
        keep(&mut self.scale, part, found.scale);
        keep(&mut self.minimum, part, found.minimum);
        keep(&mut self.inverse, part, found.inverse);
        keep(&mut self.start, part, found.start);
    }

    /// The super-blocks' grids; `sums` is the groups' importance. Where there is only one, it stands twice.
    #[inline(always)]
    fn grids<F: Lanes, const N: usize>(&self, piece: &Piece<F>, sums: Option<&[f32]>) -> [Grid; 2] {
        let grid = |block: usize| {
            let groups = block * BLOCK / N..(block + 1) * BLOCK / N;
            let sums = sums.map(|s| &s[groups.clone()]);
            piece.coder().grid(&self.scale[groups.clone()], &self.minimum[groups], sums)
        };
        let first = grid(0);
        let second = if piece.weights.len() > BLOCK { grid(1) } else { first.clone() };
        [first, second]
    }

    /// Chooses codes again on the rounded grids of groups of 16; groups whose scale was rounded to zero keep the search's codes.
    #[inline(always)]
    fn symmetric_codes<F: Lanes>(&self, piece: &Piece<F>, grids: &[Grid; 2], half: f32) -> [u8; MOST] {
        let all = |x: f32| F::all(piece.isa, x);
        codes!(piece, |at, v: F| {
            let (g, scale) = (at / 16, grids[at / BLOCK].scale[at % BLOCK / 16]);
            if scale != 0.0 {
                ((v + all(0.0)) / all(scale)).nearest_anyhow().min(all(half - 1.0)).max(all(-half)) + all(half)
            } else if self.flat >> g & 1 == 1 {
                all(0.0)
            } else {
                (all(self.inverse[g]) * v).nearest().min(all(half - 1.0)).max(all(-half)) + all(half)
            }
        })
    }

    /// Chooses codes again on the rounded grid of groups with minimums, and writes the blocks; groups whose scale was rounded
    /// to zero keep the search's codes.
    #[inline(always)]
    fn finish<F: Lanes, const N: usize>(&self, piece: &Piece<F>, sums: Option<&[f32]>, top: f32, out: &mut [u8]) {
        let all = |x: f32| F::all(piece.isa, x);
        let grids = self.grids::<F, N>(piece, sums);
        let codes = codes!(piece, |at, v: F| {
            let (g, grid) = (at / N, &grids[at / BLOCK]);
            let (scale, minimum) = (grid.scale[at % BLOCK / N], grid.min[at % BLOCK / N]);
            let code = if scale == 0.0 {
                (all(self.inverse[g]) * (v - all(self.start[g]))).nearest()
            } else {
                ((v + all(minimum)) / all(scale)).nearest_anyhow()
            };
            code.min(all(top)).max(all(0.0))
        });
        pack(piece, &grids, &codes, out);
    }
}
