//! Q2_K, Q3_K, Q4_K, Q5_K, Q6_K: eight groups of a super-block side by side.

use super::lanes::{Floats, LANES};
use super::rows::{Piece, WEIGHTS};
use super::search::{self, ALL_ZERO, Affine, Sweep};
use qconv_formats::block::Grid;

/// Q4_K and Q5_K: 8 groups of 32.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn four_five(piece: &Piece, out: &mut [u8], top: f32, sweep: &Sweep) -> Option<()> {
    let isa = piece.isa;
    let x = piece.groups::<32>(0);
    let sigma2 = 2.0 * piece.sum_of_squares() / 256.0;
    let (found, sums) = match piece.importance(0, &x, sigma2) {
        Some(w) => {
            let sums = search::sum(isa, &w).array();
            (search::affine::<32, false>(isa, &x, &w, top, &Sweep::FINE)?, Some(sums))
        }
        None => {
            let mut w = x;
            for v in &mut w {
                *v = *v * *v;
            }
            let root = (search::sum(isa, &w) / Floats::all(isa, 32.0)).sqrt();
            for i in 0..32 {
                w[i] = root + x[i].abs();
            }
            (search::affine::<32, false>(isa, &x, &w, top, sweep)?, None)
        }
    };
    let grid = piece.codes.grid(&found.scale.array(), &found.minimum.array(), sums.as_ref().map(|s| &s[..]));
    affine_codes(piece, &grid, &[found], 4, top, out);
    Some(())
}

/// Q2_K: 16 groups of 16.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn two(piece: &Piece, out: &mut [u8]) -> Option<()> {
    const PLAIN: Sweep = Sweep { from: -0.5, step: 0.1, last: 15 };
    let isa = piece.isa;
    let sigma2 = piece.sum_of_squares() / 256.0;
    let (mut scales, mut minimums, mut sums) = ([0.0; 16], [0.0; 16], [0.0; 16]);
    let mut half = |half: usize| {
        let x = piece.groups::<16>(half);
        let found = match piece.importance(half, &x, sigma2) {
            Some(w) => {
                sums[half * LANES..][..LANES].copy_from_slice(&search::sum(isa, &w).array());
                search::affine::<16, false>(isa, &x, &w, 3.0, &Sweep::FINE)?
            }
            None => {
                let mut w = x;
                for v in &mut w {
                    *v = v.abs();
                }
                search::affine::<16, true>(isa, &x, &w, 3.0, &PLAIN)?
            }
        };
        scales[half * LANES..][..LANES].copy_from_slice(&found.scale.array());
        minimums[half * LANES..][..LANES].copy_from_slice(&found.minimum.array());
        Some(found)
    };
    let found = [half(0)?, half(1)?];
    let grid = piece.codes.grid(&scales, &minimums, piece.importance.map(|_| &sums[..]));
    affine_codes(piece, &grid, &found, 2, 3.0, out);
    Some(())
}

/// Chooses codes again on the rounded grid, `vectors` vectors to a group; groups whose scale was rounded to zero keep the
/// search's codes.
#[inline]
#[target_feature(enable = "avx2")]
fn affine_codes(piece: &Piece, grid: &Grid, found: &[Affine], vectors: usize, top: f32, out: &mut [u8]) {
    let all = |x: f32| Floats::all(piece.isa, x);
    let (mut inverse, mut start) = ([0.0; 16], [0.0; 16]);
    for (i, found) in found.iter().enumerate() {
        inverse[i * LANES..][..LANES].copy_from_slice(&found.inverse.array());
        start[i * LANES..][..LANES].copy_from_slice(&found.start.array());
    }
    let codes = piece.codes(|i, v| {
        let g = i / vectors;
        let code = if grid.scale[g] == 0.0 {
            (all(inverse[g]) * (v - all(start[g]))).nearest()
        } else {
            ((v + all(grid.min[g])) / all(grid.scale[g])).nearest_anyhow()
        };
        code.min(all(top)).max(all(0.0))
    });
    piece.codes.pack(grid, &codes, out);
}

/// Q6_K: 16 groups of 16, weighted with the importance as it is, or with the squares.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn six(piece: &Piece, out: &mut [u8]) -> Option<()> {
    let isa = piece.isa;
    let mut found = Searched::default();
    for half in 0..2 {
        let x = piece.groups::<16>(half);
        let mut w = x;
        match piece.plain_importance(half) {
            Some(importance) => w = importance,
            None => w.iter_mut().for_each(|v| *v = *v * *v),
        }
        found.keep(half, search::symmetric(isa, &x, &w, 32.0));
    }
    let grid = piece.codes.grid(&found.scale, &[], None);
    let mut codes = [0; WEIGHTS]; // the whole block is zero bytes where no scale is worth it
    if found.scale.iter().any(|s| s.abs() >= ALL_ZERO) {
        codes = symmetric_codes(piece, &grid, 32.0, |i, v| found.code(piece, i, v, 32.0));
    }
    piece.codes.pack(&grid, &codes, out);
    Some(())
}

/// Q3_K: 16 groups of 16.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn three(piece: &Piece, out: &mut [u8]) -> Option<()> {
    let isa = piece.isa;
    if piece.importance.is_some() {
        let sigma2 = 2.0 * piece.sum_of_squares() / 256.0;
        let (mut found, mut sums) = (Searched::default(), [0.0; 16]);
        for half in 0..2 {
            let x = piece.groups::<16>(half);
            let w = piece.importance(half, &x, sigma2)?;
            sums[half * LANES..][..LANES].copy_from_slice(&search::sum(isa, &w).array());
            found.keep(half, search::symmetric(isa, &x, &w, 4.0));
        }
        let grid = piece.codes.grid(&found.scale, &[], Some(&sums));
        let codes = symmetric_codes(piece, &grid, 4.0, |i, v| found.code(piece, i, v, 4.0));
        piece.codes.pack(&grid, &codes, out);
    } else {
        let (low, low_codes) = search::symmetric_by_descent(isa, &piece.groups(0));
        let (high, high_codes) = search::symmetric_by_descent(isa, &piece.groups(1));
        let mut scales = [0.0; 16];
        scales[..LANES].copy_from_slice(&low.array());
        scales[LANES..].copy_from_slice(&high.array());
        let grid = piece.codes.grid(&scales, &[], None);
        // Back from lanes to vectors: element `e` of group `g` lies in lane `g % 8`.
        let kept = |i: usize, _| {
            let (g, first) = (i / 2, i % 2 * LANES);
            let side = if g < LANES { &low_codes } else { &high_codes };
            let codes: [f32; LANES] = std::array::from_fn(|e| side[first + e].array()[g % LANES]);
            Floats::load(isa, &codes)
        };
        let codes = symmetric_codes(piece, &grid, 4.0, kept);
        piece.codes.pack(&grid, &codes, out);
    }
    Some(())
}

/// As [`affine_codes`] without minimums, two vectors to a group; `kept` gives the search's codes.
#[inline]
#[target_feature(enable = "avx2")]
fn symmetric_codes(piece: &Piece, grid: &Grid, half: f32, kept: impl Fn(usize, Floats) -> Floats) -> [u8; WEIGHTS] {
    let all = |x: f32| Floats::all(piece.isa, x);
    piece.codes(|i, v| {
        let scale = grid.scale[i / 2];
        if scale == 0.0 {
            return kept(i, v);
        }
        ((v + all(0.0)) / all(scale)).nearest_anyhow().min(all(half - 1.0)).max(all(-half)) + all(half)
    })
}

/// What [`search::symmetric`] found in the 16 groups of a super-block.
#[derive(Default)]
struct Searched {
    scale: [f32; 16],
    inverse: [f32; 16],
    flat: u32,
}

impl Searched {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn keep(&mut self, half: usize, found: search::Symmetric) {
        self.scale[half * LANES..][..LANES].copy_from_slice(&found.scale.array());
        self.inverse[half * LANES..][..LANES].copy_from_slice(&found.inverse.array());
        self.flat |= found.flat.bits() << (half * LANES);
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn code(&self, piece: &Piece, i: usize, v: Floats, half: f32) -> Floats {
        let all = |x: f32| Floats::all(piece.isa, x);
        if self.flat >> (i / 2) & 1 == 1 {
            return all(0.0);
        }
        (all(self.inverse[i / 2]) * v).nearest().min(all(half - 1.0)).max(all(-half)) + all(half)
    }
}
