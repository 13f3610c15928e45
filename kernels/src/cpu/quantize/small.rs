//! Blocks of 32 weights, eight of them side by side, and the 4-bit codebook formats IQ4_NL and IQ4_XS.

use super::lanes::{Floats, LANES};
use super::rows::{Piece, WEIGHTS};
use super::search::{self, EDGES, LEVELS, Sweep};
use half::f16;

/// Q8_0: no search.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn q8_0(piece: &Piece, out: &mut [u8]) -> Option<()> {
    let (isa, zero) = (piece.isa, Floats::all(piece.isa, 0.0));
    for (b, out) in out.as_chunks_mut::<34>().0.iter_mut().enumerate() {
        let mut x = [zero; 4];
        let mut magnitudes = zero;
        for (j, x) in x.iter_mut().enumerate() {
            *x = piece.vector(4 * b + j);
            magnitudes = x.abs().max(magnitudes);
        }
        let scale = magnitudes.largest() / 127.0;
        let inverse = Floats::all(isa, if scale != 0.0 { 1.0 / scale } else { 0.0 });
        for x in &mut x {
            // Ties away from zero.
            let position = inverse * *x;
            let whole = position.truncate();
            let away = whole + (position.half_of_sign() + position.half_of_sign());
            *x = away.or_else((position - whole).abs().at_least(Floats::all(isa, 0.5)), whole);
        }
        let (header, codes) = out.split_at_mut(2);
        header.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
        Floats::bytes(x, codes.as_chunks_mut().0.first_mut()?);
    }
    Some(())
}

/// Q4_0 and Q5_0.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn symmetric(piece: &Piece, out: &mut [u8], half: f32) -> Option<()> {
    let all = |x: f32| Floats::all(piece.isa, x);
    let x = piece.groups::<32>(0);
    if let Some(w) = piece.importance(0, &x, piece.mean_square) {
        let found = search::symmetric(piece.isa, &x, &w, half);
        let (inverse, flat) = (found.inverse.array(), found.flat.bits());
        let codes = piece.codes(|i, v| {
            if flat >> (i / 4) & 1 == 1 {
                return all(0.0);
            }
            (all(inverse[i / 4]) * v).nearest().min(all(half - 1.0)).max(all(-half)) + all(half)
        });
        piece.pack_small(&found.scale.array(), &[0.0; LANES], &codes, out);
    } else {
        let scale = (search::extreme(piece.isa, &x) / all(-half)).array();
        let inverse = inverses(&scale)?;
        let codes =
            piece.codes(|i, v| (v * all(inverse[i / 4]) + all(half + 0.5)).truncate().min(all(2.0 * half - 1.0)));
        piece.pack_small(&scale, &[0.0; LANES], &codes, out);
    }
    Some(())
}

/// Q4_1 and Q5_1.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn affine(piece: &Piece, out: &mut [u8], top: f32) -> Option<()> {
    let all = |x: f32| Floats::all(piece.isa, x);
    let x = piece.groups::<32>(0);
    if let Some(w) = piece.importance(0, &x, piece.mean_square) {
        let found = search::affine::<32, false>(piece.isa, &x, &w, top, &Sweep::FINE)?;
        let (inverse, start) = (found.inverse.array(), found.start.array());
        let codes =
            piece.codes(|i, v| (all(inverse[i / 4]) * (v - all(start[i / 4]))).nearest().min(all(top)).max(all(0.0)));
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
        let codes = piece.codes(|i, v| {
            ((v - all(low[i / 4])) * all(inverse[i / 4]) + all(0.5)).truncate().min(all(top)).max(all(0.0))
        });
        piece.pack_small(&scale, &low.map(|x| -x), &codes, out);
    }
    Some(())
}

/// Inverses of scales, zero for zero; `None` where one overflows, since what follows is then not plain arithmetic.
#[inline]
#[target_feature(enable = "avx2")]
fn inverses(scale: &[f32; LANES]) -> Option<[f32; LANES]> {
    let inverse = scale.map(|s| if s != 0.0 { 1.0 / s } else { 0.0 });
    (inverse.iter().all(|i| i.is_finite()) && scale.iter().all(|s| s.is_finite())).then_some(inverse)
}

/// How much errors count in the codebook formats.
#[inline]
#[target_feature(enable = "avx2")]
fn codebook_scales(piece: &Piece, x: &[Floats; 32], sigma2: Option<f32>) -> [f32; LANES] {
    let mut w = *x;
    w.iter_mut().for_each(|v| *v = *v * *v);
    match sigma2.and_then(|sigma2| piece.importance(0, x, sigma2)) {
        Some(importance) => w = importance,
        // IQ4_NL: the mean square of each block, which is a lane.
        None if piece.importance.is_some() => {
            let sigma2 = search::sum(piece.isa, &w) * Floats::all(piece.isa, 2.0 / 32.0);
            let importance = piece.plain_importance::<32>(0).unwrap_or(w);
            for i in 0..32 {
                w[i] = importance[i] * (sigma2 + w[i]).sqrt();
            }
        }
        None => {}
    }
    search::codebook(piece.isa, x, &w).array()
}

/// Codes of groups of 32 for these scales.
#[inline]
#[target_feature(enable = "avx2")]
fn codebook_codes(piece: &Piece, scale: &[f32; LANES]) -> Option<[u8; WEIGHTS]> {
    let inverse = inverses(scale)?;
    Some(piece.codes(|i, v| (Floats::all(piece.isa, inverse[i / 4]) * v).on_grid(&EDGES, &LEVELS).0))
}

/// IQ4_NL.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn iq4_nl(piece: &Piece, out: &mut [u8]) -> Option<()> {
    let scale = codebook_scales(piece, &piece.groups(0), None);
    let codes = codebook_codes(piece, &scale)?;
    piece.pack_small(&scale, &[0.0; LANES], &codes, out);
    Some(())
}

/// IQ4_XS.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn iq4_xs(piece: &Piece, out: &mut [u8]) -> Option<()> {
    let sigma2 = piece.sum_of_squares() * (2.0 / 256.0);
    let scale = codebook_scales(piece, &piece.groups(0), Some(sigma2));
    // The first scale of largest magnitude becomes -32.
    let extreme = scale.iter().fold(0.0f32, |e, s| if s.abs() > e.abs() { *s } else { e });
    let d = -extreme / 32.0;
    let [inverse, ..] = inverses(&[d; LANES])?;
    let rounded = (Floats::all(piece.isa, inverse) * Floats::load(piece.isa, &scale)).nearest_anyhow();
    let integers = rounded.min(Floats::all(piece.isa, 31.0)).max(Floats::all(piece.isa, -32.0));
    let codes = codebook_codes(piece, &(Floats::all(piece.isa, d) * integers).array())?;
    piece.codes.pack(&piece.codes.grid(&scale, &[], None), &codes, out);
    Some(())
}
