//! Blocks of 32 weights side by side, and the 4-bit codebook formats IQ4_NL and IQ4_XS.

use super::lanes::{Lanes, MOST_LANES, Mask};
use super::rows::{BLOCK, MOST, Piece, codes};
use super::search::{self, EDGES, LEVELS, Sweep};
use half::f16;

/// Q8_0: no search.
#[inline(always)]
pub(super) fn q8_0<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    let (isa, zero) = (piece.isa, F::all(piece.isa, 0.0));
    let vectors = 32 / F::LANES;
    for (weights, out) in piece.weights.chunks_exact(32).zip(out.as_chunks_mut::<34>().0) {
        let mut x = [zero; 4];
        let mut magnitudes = zero;
        for j in 0..vectors {
            x[j] = F::load(isa, &weights[j * F::LANES..]);
            magnitudes = x[j].abs().max(magnitudes);
        }
        let scale = magnitudes.largest() / 127.0;
        let inverse = F::all(isa, if scale != 0.0 { 1.0 / scale } else { 0.0 });
        let (header, codes) = out.split_at_mut(2);
        header.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        for j in 0..vectors {
            nearest_away(isa, inverse * x[j]).bytes(&mut codes[j * F::LANES..]);
        }
    }
    Some(())
}

/// The nearest integers, ties away from zero.
#[inline(always)]
fn nearest_away<F: Lanes>(isa: F::Isa, position: F) -> F {
    let whole = position.truncate();
    let away = whole + (position.half_of_sign() + position.half_of_sign());
    away.or_else((position - whole).abs().at_least(F::all(isa, 0.5)), whole)
}

/// TQ1_0, TQ2_0 and Q2_0: no search, levels from -1 up to `top`.
#[inline(always)]
pub(super) fn few_bits<F: Lanes>(piece: &Piece<F>, out: &mut [u8], top: f32) -> Option<()> {
    let all = |x: f32| F::all(piece.isa, x);
    let n = piece.format.block_weights;
    let (mut scale, mut inverse) = ([0.0f32; MOST / 64], [0.0; MOST / 64]);
    for ((scale, inverse), weights) in scale.iter_mut().zip(&mut inverse).zip(piece.weights.chunks_exact(n)) {
        let mut largest = all(0.0);
        for x in weights.chunks_exact(F::LANES) {
            largest = F::load(piece.isa, x).abs().max(largest);
        }
        *scale = largest.largest();
        *inverse = if *scale != 0.0 { 1.0 / *scale } else { 0.0 };
        inverse.is_finite().then_some(())?;
    }
    let codes =
        codes!(piece, |at, v: F| nearest_away(piece.isa, v * all(inverse[at / n])).min(all(top)).max(all(-1.0))
            + all(1.0));
    let blocks = out.chunks_exact_mut(piece.format.block_bytes).zip(codes.chunks_exact(n));
    for ((out, codes), scale) in blocks.zip(&scale) {
        piece.coder().pack(&piece.coder().grid(&[*scale], &[], None), codes, out);
    }
    Some(())
}

/// Q4_0 and Q5_0.
#[inline(always)]
pub(super) fn symmetric<F: Lanes>(piece: &Piece<F>, out: &mut [u8], half: f32) -> Option<()> {
    let all = |x: f32| F::all(piece.isa, x);
    let x = piece.groups::<32>(0);
    if let Some(w) = piece.importance(0, &x, all(piece.mean_square)) {
        let found = search::symmetric(piece.isa, &x, &w, half);
        let (inverse, flat) = (found.inverse.array(), found.flat.bits());
        let codes = codes!(piece, |at, v: F| {
            if flat >> (at / 32) & 1 == 1 {
                all(0.0)
            } else {
                (all(inverse[at / 32]) * v).nearest().min(all(half - 1.0)).max(all(-half)) + all(half)
            }
        });
        piece.pack_small(&found.scale.array(), &[0.0; MOST_LANES], &codes, out);
    } else {
        let scale = (search::extreme(piece.isa, &x) / all(-half)).array();
        let inverse = inverses(&scale)?;
        let codes = codes!(piece, |at, v: F| (v * all(inverse[at / 32]) + all(half + 0.5))
            .truncate()
            .min(all(2.0 * half - 1.0)));
        piece.pack_small(&scale, &[0.0; MOST_LANES], &codes, out);
    }
    Some(())
}

/// Q4_1 and Q5_1.
#[inline(always)]
pub(super) fn affine<F: Lanes>(piece: &Piece<F>, out: &mut [u8], top: f32) -> Option<()> {
    let all = |x: f32| F::all(piece.isa, x);
    let x = piece.groups::<32>(0);
    if let Some(w) = piece.importance(0, &x, all(piece.mean_square)) {
        let found = search::affine::<F, 32, false>(piece.isa, &x, &w, top, &Sweep::FINE)?;
        let (inverse, start) = (found.inverse.array(), found.start.array());
        let codes = codes!(piece, |at, v: F| (all(inverse[at / 32]) * (v - all(start[at / 32])))
            .nearest()
            .min(all(top))
            .max(all(0.0)));
        piece.pack_small(&found.scale.array(), &found.minimum.array(), &codes, out);
    } else {
        let (mut low, mut high) = (all(f32::MAX), all(-f32::MAX));
        for &v in &x {
            low = v.min(low);
            high = v.max(high);
        }
        let scale = ((high - low) / all(top)).array();
        let inverse = inverses(&scale)?;
        let low = low.array();
        let codes = codes!(piece, |at, v: F| {
            let position = (v - all(low[at / 32])) * all(inverse[at / 32]) + all(0.5);
            position.truncate().min(all(top)).max(all(0.0))
        });
        piece.pack_small(&scale, &low.map(|x| -x), &codes, out);
    }
    Some(())
}

/// Inverses of scales, zero for zero; `None` where one overflows, since what follows is then not plain arithmetic.
#[inline(always)]
fn inverses(scale: &[f32; MOST_LANES]) -> Option<[f32; MOST_LANES]> {
    let inverse = scale.map(|s| if s != 0.0 { 1.0 / s } else { 0.0 });
    (inverse.iter().all(|i| i.is_finite()) && scale.iter().all(|s| s.is_finite())).then_some(inverse)
}

/// Codes of groups of 32 for these scales.
#[inline(always)]
fn codebook_codes<F: Lanes>(piece: &Piece<F>, scale: &[f32; MOST_LANES]) -> Option<[u8; MOST]> {
    let inverse = inverses(scale)?;
    Some(codes!(piece, |at, v: F| (F::all(piece.isa, inverse[at / 32]) * v).on_grid(&EDGES, &LEVELS).0))
}

/// The squares.
#[inline(always)]
fn squares<F: Lanes>(x: &[F; 32]) -> [F; 32] {
    let mut squares = *x;
    for v in &mut squares {
        *v = *v * *v;
    }
    squares
}

/// IQ4_NL.
#[inline(always)]
pub(super) fn iq4_nl<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    let x = piece.groups(0);
    let mut w = squares(&x);
    if piece.importance.is_some() {
        // The mean square of each block, which is a lane.
        let sigma2 = search::sum(piece.isa, &w) * F::all(piece.isa, 2.0 / 32.0);
        w = piece.importance(0, &x, sigma2)?;
    }
    let scale = search::codebook(piece.isa, &x, &w).array();
    let codes = codebook_codes(piece, &scale)?;
    piece.pack_small(&scale, &[0.0; MOST_LANES], &codes, out);
    Some(())
}

/// IQ4_XS: super-blocks of 8 groups.
#[inline(always)]
pub(super) fn iq4_xs<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    let all = |x: f32| F::all(piece.isa, x);
    let x = piece.groups(0);
    let sigma2 = piece.sigma2::<32>(0, |sum| sum * (2.0 / 256.0));
    let w = match piece.importance(0, &x, sigma2) {
        Some(w) => w,
        None => squares(&x),
    };
    let found = search::codebook(piece.isa, &x, &w);
    let scale = found.array();
    // The first scale of largest magnitude in a super-block becomes -32.
    let mut d = [0.0; MOST_LANES];
    for (d, scale) in d.chunks_exact_mut(8).zip(scale.chunks_exact(8)) {
        d.fill(-scale.iter().fold(0.0f32, |e, s| if s.abs() > e.abs() { *s } else { e }) / 32.0);
    }
    let inverse = inverses(&d)?;
    let rounded = (F::load(piece.isa, &inverse) * found).nearest_anyhow();
    let integers = rounded.min(all(31.0)).max(all(-32.0));
    let codes = codebook_codes(piece, &(F::load(piece.isa, &d) * integers).array())?;
    let blocks = out.chunks_exact_mut(piece.format.block_bytes).zip(codes.chunks_exact(BLOCK));
    for ((out, codes), scale) in blocks.zip(scale.chunks_exact(8)) {
        piece.coder().pack(&piece.coder().grid(scale, &[], None), codes, out);
    }
    Some(())
}
