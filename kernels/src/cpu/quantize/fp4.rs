//! MXFP4 and NVFP4: all sixteen levels are tried, as in the reference, but for a vector of weights at a time.

use super::lanes::Lanes;
use super::rows::Piece;
use qconv_formats::block::fp4::{LEVELS, half_of_e8m0, half_of_ue4m3, mx_scale, nv_scale};

/// MXFP4: blocks of 32.
#[inline(always)]
pub(super) fn mx<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    for (weights, out) in piece.weights.chunks_exact(32).zip(out.as_chunks_mut::<17>().0) {
        out[0] = mx_scale(largest::<F>(piece.isa, weights));
        codes::<F>(piece.isa, weights, half_of_e8m0(out[0]), &mut out[1..]);
    }
    Some(())
}

/// NVFP4: blocks of 64, groups of 16.
#[inline(always)]
pub(super) fn nv<F: Lanes>(piece: &Piece<F>, out: &mut [u8]) -> Option<()> {
    for (weights, out) in piece.weights.chunks_exact(64).zip(out.as_chunks_mut::<36>().0) {
        let (scales, out) = out.split_at_mut(4);
        for ((weights, scale), out) in weights.chunks_exact(16).zip(scales).zip(out.chunks_exact_mut(8)) {
            *scale = nv_scale(largest::<F>(piece.isa, weights));
            codes::<F>(piece.isa, weights, half_of_ue4m3(*scale), out);
        }
    }
    Some(())
}

#[inline(always)]
fn largest<F: Lanes>(isa: F::Isa, weights: &[f32]) -> f32 {
    let mut largest = F::all(isa, 0.0);
    for x in weights.chunks_exact(F::LANES) {
        largest = F::load(isa, x).abs().max(largest);
    }
    largest.largest()
}

/// The first codes of least error; those of the second half of the weights in the upper four bits.
#[inline(always)]
fn codes<F: Lanes>(isa: F::Isa, weights: &[f32], scale: f32, out: &mut [u8]) {
    let mut codes = [0; 32];
    for (x, codes) in weights.chunks_exact(F::LANES).zip(codes.chunks_exact_mut(F::LANES)) {
        let x = F::load(isa, x);
        let (mut least, mut best) = (F::all(isa, f32::INFINITY), F::all(isa, 0.0));
        for (code, level) in LEVELS.iter().enumerate() {
            let this = (F::all(isa, level * scale) - x).abs();
            let better = this.less(least);
            least = this.or_else(better, least);
            best = F::all(isa, code as f32).or_else(better, best);
        }
        best.bytes(codes);
    }
    let (low, high) = codes[..weights.len()].split_at(weights.len() / 2);
    for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
        *out = low | high << 4;
    }
}
