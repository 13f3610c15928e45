//! From rows to blocks, and back to the scalar reference where a block is too strange.

use super::lanes::{Lanes, MOST_LANES};
use qconv_formats::block::{BlockFormat, Grid, Importance, ScalarCodes, mean_square};

/// Weights in a super-block.
pub(super) const BLOCK: usize = 256;
/// Most weights that are quantized at a time; see [`weights`].
pub(super) const MOST: usize = 32 * MOST_LANES;

/// Weights that are quantized at a time: a block of 32 in each lane, which is one super-block or two.
pub(super) const fn weights<F: Lanes>() -> usize {
    32 * F::LANES
}

/// What the search of a piece needs to know.
pub(super) struct Piece<'a, F: Lanes> {
    pub(super) isa: F::Isa,
    pub(super) format: &'static BlockFormat,
    /// (32 * lanes)
    pub(super) weights: &'a [f32],
    /// As long as `weights`.
    pub(super) importance: Option<&'a [f32]>,
    /// Of the whole row, where there is importance and the format uses it.
    pub(super) mean_square: f32,
}

/// Quantizes a row piece by piece. `piece` writes the packed blocks, or returns `None` for the scalar path.
///
/// Rows with NaN or infinity, or with negative importance, take the scalar path as a whole.
#[inline(always)]
pub(super) fn row<F: Lanes>(
    isa: F::Isa,
    format: &'static BlockFormat,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    piece: impl Fn(&Piece<F>, &mut [u8]) -> Option<()>,
) {
    let scalar = format.quantize.expect("fast quantizers are for formats that can be quantized to");
    if !(row.iter().fold(true, |all, x| all & (x.abs() < f32::INFINITY))
        && importance.is_none_or(|i| i.iter().fold(true, |all, x| all & (0.0..f32::INFINITY).contains(x))))
    {
        return scalar(row, importance, out);
    }
    let used = format.scalar.is_some() && format.importance != Importance::Unused;
    let mean_square = if importance.is_some() && used { mean_square(row) } else { 0.0 };
    let n = const { weights::<F>() };
    let piece_bytes = n / format.block_weights * format.block_bytes;
    let rest = row.len() % n;
    let (whole, last) = row.split_at(row.len() - rest);
    let (out, out_last) = out.split_at_mut(whole.len() / n * piece_bytes);
    for (i, (weights, out)) in whole.chunks_exact(n).zip(out.chunks_exact_mut(piece_bytes)).enumerate() {
        let importance = importance.map(|all| &all[i * n..][..n]);
        let this = Piece { isa, format, weights, importance, mean_square };
        if piece(&this, out).is_none() {
            this.scalar(out);
        }
    }
    if rest > 0 {
        // The last few blocks, filled up with zeros.
        let (mut weights, mut filled, mut bytes) = ([0.0; MOST], [0.0; MOST], [0; MOST * 2]);
        weights[..rest].copy_from_slice(last);
        if let Some(importance) = importance {
            filled[..rest].copy_from_slice(&importance[whole.len()..]);
        }
        let importance = importance.map(|_| &filled[..n]);
        let this = Piece { isa, format, weights: &weights[..n], importance, mean_square };
        let bytes = &mut bytes[..piece_bytes];
        if piece(&this, bytes).is_none() {
            this.scalar(bytes);
        }
        out_last.copy_from_slice(&bytes[..out_last.len()]);
    }
}

impl<F: Lanes> Piece<'_, F> {
    /// The reference.
    #[cold]
    fn scalar(&self, out: &mut [u8]) {
        let mut codes = [0; BLOCK];
        let n = self.format.block_weights;
        let Some(scalar) = self.format.scalar else {
            // Codebooks look at nothing beyond a block.
            let quantize = self.format.quantize.expect("fast quantizers are for formats that can be quantized to");
            return quantize(self.weights, self.importance, out);
        };
        for (b, (weights, out)) in
            self.weights.chunks_exact(n).zip(out.chunks_exact_mut(self.format.block_bytes)).enumerate()
        {
            let importance = self.importance.map(|i| &i[b * n..][..n]);
            let grid = scalar.fit(weights, importance, self.mean_square, &mut codes[..n]);
            scalar.pack(&grid, &codes[..n], out);
        }
    }

    /// The format's grids and packing.
    #[inline(always)]
    pub(super) fn coder(&self) -> &'static dyn ScalarCodes {
        self.format.scalar.expect("formats with scalar codes")
    }

    /// Element `i` of as many groups of `N` weights as there are lanes in vector `i`, from the `part`-th such groups.
    #[inline(always)]
    pub(super) fn groups<const N: usize>(&self, part: usize) -> [F; N] {
        side_by_side(self.isa, self.weights, part)
    }

    /// [`Piece::groups`] of the importance as it is.
    #[inline(always)]
    pub(super) fn plain_importance<const N: usize>(&self, part: usize) -> Option<[F; N]> {
        Some(side_by_side(self.isa, self.importance?, part))
    }

    /// How much errors count: `importance * sqrt(sigma2 + x^2)`; `None` without importance.
    #[inline(always)]
    pub(super) fn importance<const N: usize>(&self, part: usize, x: &[F; N], sigma2: F) -> Option<[F; N]> {
        let mut w = self.plain_importance(part)?;
        for i in 0..N {
            w[i] = w[i] * (sigma2 + x[i] * x[i]).sqrt();
        }
        Some(w)
    }

    /// For each group of `N` weights of the `part`-th groups, `of` the sum of its super-block's squares from left to right, if
    /// there is importance to use it.
    #[inline(always)]
    pub(super) fn sigma2<const N: usize>(&self, part: usize, of: impl Fn(f32) -> f32) -> F {
        let mut lanes = [0.0; MOST_LANES];
        if self.importance.is_some() {
            let first = part * N * F::LANES / BLOCK;
            // One after the other in a block, but two blocks at a time.
            let (one, other) = (&self.weights[first * BLOCK..][..BLOCK], self.weights.rchunks(BLOCK).next());
            let (mut sums, mut i) = ([0.0f32; 2], 0);
            let other = other.unwrap_or(one);
            while i < BLOCK {
                sums = [sums[0] + one[i] * one[i], sums[1] + other[i] * other[i]];
                i += 1;
            }
            for (lane, sigma2) in lanes[..F::LANES].iter_mut().enumerate() {
                *sigma2 = of(sums[(lane * N >= BLOCK) as usize]);
            }
        }
        F::load(self.isa, &lanes)
    }

    /// Writes blocks of 32 weights with these scales and minimums.
    #[inline(always)]
    pub(super) fn pack_small(&self, scale: &[f32], minimum: &[f32], codes: &[u8; MOST], out: &mut [u8]) {
        let coder = self.coder();
        let bytes = self.format.block_bytes;
        for (b, (out, codes)) in out.chunks_exact_mut(bytes).zip(codes.chunks_exact(32)).enumerate() {
            let grid: Grid = coder.grid(&scale[b..b + 1], &minimum[b..b + 1], None);
            coder.pack(&grid, codes, out);
        }
    }
}

/// Codes of all weights of a piece in their order: what the expression gives as floats for the vector `v`, the first of whose
/// weights lies at `at`. A macro, since closures are not inlined for sure.
macro_rules! codes {
    ($piece:expr, |$at:ident, $v:ident: $lanes:ident| $code:expr) => {{
        let mut codes = [0; $crate::cpu::quantize::rows::MOST];
        for $at in (0..const { $crate::cpu::quantize::rows::weights::<$lanes>() }).step_by($lanes::LANES) {
            let $v = $lanes::load($piece.isa, &$piece.weights[$at..]);
            ($code).bytes(&mut codes[$at..]);
        }
        codes
    }};
}
pub(super) use codes;

/// See [`Piece::groups`].
#[inline(always)]
pub(super) fn side_by_side<F: Lanes, const N: usize>(isa: F::Isa, x: &[f32], part: usize) -> [F; N] {
    let mut out = [F::all(isa, 0.0); N];
    let x = &x[part * N * F::LANES..][..N * F::LANES];
    for first in (0..N).step_by(F::LANES) {
        F::transpose(isa, &x[first..], N, &mut out[first..]);
    }
    out
}
