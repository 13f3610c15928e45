//! From rows to blocks, and back to the scalar reference where a block is too strange.

use super::lanes::{Floats, LANES};
use crate::cpu::Avx2;
use qconv_formats::block::{BlockFormat, Grid, ScalarCodes, mean_square};

/// Weights that are quantized at a time: a super-block, or eight blocks of 32.
pub(super) const WEIGHTS: usize = 256;

/// What the search of a piece needs to know.
pub(super) struct Piece<'a> {
    pub(super) isa: Avx2,
    pub(super) codes: &'static dyn ScalarCodes,
    pub(super) weights: &'a [f32; WEIGHTS],
    pub(super) importance: Option<&'a [f32; WEIGHTS]>,
    /// Of the whole row, where there is importance.
    pub(super) mean_square: f32,
}

/// Quantizes a row piece by piece. `piece` writes the packed blocks, or returns `None` for the scalar path.
///
/// Rows with NaN or infinity take the scalar path as a whole.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn row(
    isa: Avx2,
    format: &'static BlockFormat,
    weights: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    piece: impl Fn(&Piece, &mut [u8]) -> Option<()>,
) {
    let scalar = format.quantize.expect("fast quantizers are for formats that can be quantized to");
    let codes = format.scalar.expect("fast quantizers are for formats with scalar codes");
    if !(finite(weights) && importance.is_none_or(finite)) {
        return scalar(weights, importance, out);
    }
    let mean_square = if importance.is_some() { mean_square(weights) } else { 0.0 };
    let piece_bytes = WEIGHTS / format.block_weights * format.block_bytes;
    let (pieces, rest) = weights.as_chunks::<WEIGHTS>();
    let (importances, importance_rest) = importance.unwrap_or_default().as_chunks::<WEIGHTS>();
    let (out, out_rest) = out.split_at_mut(pieces.len() * piece_bytes);
    for (i, (weights, out)) in pieces.iter().zip(out.chunks_exact_mut(piece_bytes)).enumerate() {
        let importance = importances.get(i);
        let this = Piece { isa, codes, weights, importance, mean_square };
        if piece(&this, out).is_none() {
            this.scalar(format, out);
        }
    }
    if !rest.is_empty() {
        // The last few blocks of 32, filled up with zeros.
        let (mut weights, mut filled, mut bytes) = ([0.0; WEIGHTS], [0.0; WEIGHTS], [0; WEIGHTS * 4]);
        weights[..rest.len()].copy_from_slice(rest);
        filled[..importance_rest.len()].copy_from_slice(importance_rest);
        let importance = importance.map(|_| &filled);
        let this = Piece { isa, codes, weights: &weights, importance, mean_square };
        let bytes = &mut bytes[..piece_bytes];
        if piece(&this, bytes).is_none() {
            this.scalar(format, bytes);
        }
        out_rest.copy_from_slice(&bytes[..out_rest.len()]);
    }
}

fn finite(x: &[f32]) -> bool {
    // Exponent all ones: NaN or infinite.
    x.iter().fold(true, |all, v| all & (v.abs() < f32::INFINITY))
}

impl Piece<'_> {
    /// The reference.
    #[cold]
    fn scalar(&self, format: &BlockFormat, out: &mut [u8]) {
        let mut codes = [0; WEIGHTS];
        let n = format.block_weights;
        for (b, (weights, out)) in
            self.weights.chunks_exact(n).zip(out.chunks_exact_mut(format.block_bytes)).enumerate()
        {
            let importance = self.importance.map(|i| &i[b * n..][..n]);
            let grid = self.codes.fit(weights, importance, self.mean_square, &mut codes[..n]);
            self.codes.pack(&grid, &codes[..n], out);
        }
    }

    /// Vector `i` of the weights in their order.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn vector(&self, i: usize) -> Floats {
        Floats::load(self.isa, &self.weights.as_chunks().0[i])
    }

    /// Element `i` of eight groups of `N` weights in vector `i`, from the `half`-th group of eight.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn groups<const N: usize>(&self, half: usize) -> [Floats; N] {
        side_by_side(self.isa, self.weights, half)
    }

    /// [`Piece::groups`] of the importance as it is.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn plain_importance<const N: usize>(&self, half: usize) -> Option<[Floats; N]> {
        self.importance.map(|i| side_by_side(self.isa, i, half))
    }

    /// How much errors count: `importance * sqrt(sigma2 + x^2)`; `None` without importance.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn importance<const N: usize>(&self, half: usize, x: &[Floats; N], sigma2: f32) -> Option<[Floats; N]> {
        let sigma2 = Floats::all(self.isa, sigma2);
        self.plain_importance(half).map(|mut w| {
            for i in 0..N {
                w[i] = w[i] * (sigma2 + x[i] * x[i]).sqrt();
            }
            w
        })
    }

    /// Sum of the squares from left to right, if there is importance to use it.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn sum_of_squares(&self) -> f32 {
        if self.importance.is_some() { self.weights.iter().fold(0.0, |s, v| s + v * v) } else { 0.0 }
    }

    /// Calls `code(i, vector i)` for all weights in their order; it gives codes as floats.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn codes(&self, code: impl Fn(usize, Floats) -> Floats) -> [u8; WEIGHTS] {
        let mut codes = [0; WEIGHTS];
        for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let mut four = [Floats::all(self.isa, 0.0); 4];
            for (j, four) in four.iter_mut().enumerate() {
                *four = code(4 * i + j, self.vector(4 * i + j));
            }
            Floats::bytes(four, codes);
        }
        codes
    }

    /// Writes blocks of 32 weights with these scales and minimums.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn pack_small(&self, scale: &[f32], minimum: &[f32], codes: &[u8; WEIGHTS], out: &mut [u8]) {
        let bytes = out.len() / LANES;
        for (b, (out, codes)) in out.chunks_exact_mut(bytes).zip(codes.chunks_exact(32)).enumerate() {
            let grid: Grid = self.codes.grid(&scale[b..b + 1], &minimum[b..b + 1], None);
            self.codes.pack(&grid, codes, out);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn side_by_side<const N: usize>(isa: Avx2, x: &[f32; WEIGHTS], half: usize) -> [Floats; N] {
    let mut out = [Floats::all(isa, 0.0); N];
    let vectors = &x.as_chunks::<LANES>().0[half * N..(half + 1) * N];
    for (part, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut rows = [Floats::all(isa, 0.0); LANES];
        for (g, row) in rows.iter_mut().enumerate() {
            *row = Floats::load(isa, &vectors[g * (N / LANES) + part]);
        }
        *out = Floats::transpose(rows);
    }
    out
}
