//! Codebooks of groups: several weights share one code, a point of a fixed set.
//!
//! All these formats have super-blocks of 256 weights. A format implements [`GroupCodes`]; its row functions follow. Which
//! points are tried for weights that fall between them is precomputed once per [`Codebook`].

use super::search::sum_of_squares;
use super::{BlockFormat, Importance};

/// Weights in a super-block.
pub const BLOCK: usize = 256;

/// One format that codes groups of weights.
pub(super) trait GroupCodes: 'static {
    /// Bytes of a block.
    const BYTES: usize;

    /// Quantizes one block; `importance` per weight. Every byte of `out` is written.
    fn quantize(weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

    /// Dequantizes one block.
    fn dequantize(block: &[u8], out: &mut [f32]);

    /// The block's half-precision scale, as it is stored.
    fn scale(block: &[u8]) -> f32;
}

/// The block format of a codebook family's member.
pub(super) const fn format<T: GroupCodes>(
    name: &'static str,
    ggml_id: u32,
    importance: Importance,
    expected_error: f32,
) -> BlockFormat {
    BlockFormat {
        name,
        ggml_id,
        block_weights: BLOCK,
        block_bytes: T::BYTES,
        quantize: Some(|weights, importance, out| {
            for (b, (x, out)) in weights.chunks_exact(BLOCK).zip(out.chunks_exact_mut(T::BYTES)).enumerate() {
                T::quantize(x, importance.map(|i| &i[b * BLOCK..][..BLOCK]), out);
            }
        }),
        dequantize: Some(|bytes, out| {
            for (block, out) in bytes.chunks_exact(T::BYTES).zip(out.chunks_exact_mut(BLOCK)) {
                T::dequantize(block, out);
            }
        }),
        importance,
        scalar: None,
        expected_error,
        find_nonfinite: |bytes| bytes.chunks_exact(T::BYTES).position(|block| !T::scale(block).is_finite()),
    }
}

/// How much the errors of a block's weights count.
///
/// `importance * sqrt(sigma2 + x^2)`, where `sigma2` is `factor` times the block's mean square, or `without(sigma2, x)` where
/// there is no importance.
pub(super) fn weighting(
    x: &[f32],
    importance: Option<&[f32]>,
    factor: f32,
    without: impl Fn(f32, f32) -> f32,
) -> [f32; BLOCK] {
    let sigma2 = factor * sum_of_squares(x) / BLOCK as f32;
    std::array::from_fn(|i| match importance {
        Some(importance) => importance[i] * (sigma2 + x[i] * x[i]).sqrt(),
        None => without(sigma2, x[i]),
    })
}

/// A set of points with, for every place of the lattice around them, the point there or the points near it.
pub struct Codebook {
    /// Digits of each point; only the first [`Codebook::dims`] count.
    pub points: Vec<[u8; 8]>,
    /// Digits of a point: 4 or 8.
    pub dims: usize,
    /// Bits of a digit in a place: 3 or 2.
    pub bits: usize,
    /// By place (digits packed as in the tables): a point's index, or `NEAR` and an offset into `near`.
    places: Vec<u32>,
    /// Lists of point indices, each behind its length; nearest first, equally near ones by index.
    near: Vec<u16>,
}

/// Marks places that hold no point.
const NEAR: u32 = 1 << 31;

impl Codebook {
    /// `table` holds points of `16 / bits` or fewer dimensions, digits `0 ..= top`. Around places without a point, the points
    /// in the `shells` nearest distances are candidates (`iq2xs_init_impl` and `iq3xs_init_impl` of ggml).
    pub(super) fn new(table: &[u16], dims: usize, bits: usize, top: u8, shells: usize) -> Codebook {
        let digits = |packed: u16| -> [u8; 8] {
            std::array::from_fn(|i| if i < dims { (packed >> (bits * i)) as u8 & ((1 << bits) - 1) } else { 0 })
        };
        let points: Vec<[u8; 8]> = table.iter().map(|&p| digits(p)).collect();
        let mut places = vec![0; 1 << (bits * dims)];
        let mut near = Vec::new();
        let mut distances = vec![0usize; points.len()];
        for (place, entry) in places.iter_mut().enumerate() {
            if let Ok(index) = table.binary_search(&(place as u16)) {
                *entry = index as u32;
                continue;
            }
            let here = digits(place as u16);
            if here.iter().any(|&d| d > top) {
                continue; // no search comes here
            }
            let mut counts = [0u16; 8 * 49 + 1]; // points by squared distance, of which there are few
            for (distance, point) in distances.iter_mut().zip(&points) {
                *distance = here.iter().zip(point).map(|(a, b)| a.abs_diff(*b) as usize).map(|d| d * d).sum();
                counts[*distance] += 1;
            }
            *entry = NEAR | near.len() as u32;
            near.push(0);
            let length = near.len() - 1;
            for (shell, _) in counts.iter().enumerate().filter(|(_, c)| **c > 0).take(shells) {
                near.extend((0..points.len() as u16).filter(|&p| distances[p as usize] == shell));
            }
            near[length] = (near.len() - length - 1) as u16;
        }
        Codebook { points, dims, bits, places, near }
    }

    /// Number of places, `2^(bits * dims)`. A place is digits packed as in the tables, the first in the lowest bits.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// The index of the point at a place, or the candidates near it. Means nothing where a digit is beyond all points'.
    pub fn at(&self, place: usize) -> Result<u16, &[u16]> {
        let entry = self.places[place];
        if entry & NEAR == 0 {
            return Ok(entry as u16);
        }
        let length = (entry ^ NEAR) as usize;
        Err(&self.near[length + 1..][..self.near[length] as usize])
    }

    /// The point with these digits, or the candidates near them.
    pub(super) fn find(&self, digits: impl Iterator<Item = u8>) -> Result<u16, &[u16]> {
        self.at(digits.enumerate().fold(0, |place, (i, d)| place | (d as usize) << (self.bits * i)))
    }

    /// The candidate of least `error`; the first where no error is a number below the largest.
    pub(super) fn best(&self, candidates: &[u16], error: impl Fn(&[u8]) -> f32) -> u16 {
        let (mut best, mut least) = (candidates[0], f32::MAX);
        for &candidate in candidates {
            let error = error(&self.points[candidate as usize][..self.dims]);
            if error < least {
                best = candidate;
                least = error;
            }
        }
        best
    }

    /// [`Codebook::best`] for points of eight few digits, which have many candidates around them: what a digit costs at a
    /// place is asked once. No `cost` may be negative: sums only grow, and most candidates are out at half their length.
    pub(super) fn best_of_many(&self, candidates: &[u16], digits: usize, cost: impl Fn(usize, u8) -> f32) -> u16 {
        let mut costs = [[0.0f32; 4]; 8];
        for (i, costs) in costs.iter_mut().enumerate() {
            costs[..digits].iter_mut().enumerate().for_each(|(d, c)| *c = cost(i, d as u8));
        }
        let (mut best, mut least) = (candidates[0], f32::MAX);
        for &candidate in candidates {
            let point = &self.points[candidate as usize];
            let add = |sum: f32, i: usize| sum + costs[i][point[i] as usize % 4];
            let half = (0..4).fold(0.0, add);
            if half >= least {
                continue;
            }
            let sum = (4..8).fold(half, add);
            if sum < least {
                best = candidate;
                least = sum;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_nearest_points() {
        let table = [0, 0b01_00, 0b10_10]; // (0, 0), (0, 1), (2, 2)
        let book = Codebook::new(&table, 2, 2, 2, 2);
        assert_eq!(book.find([0, 1].into_iter()), Ok(1));
        // From (1, 1), the squared distances are 2, 1, 2: two shells hold all, by distance and then by index.
        assert_eq!(book.find([1, 1].into_iter()), Err(&[1, 0, 2][..]));
        // From (0, 2), they are 4, 1, 4; from (2, 1), 5, 4, 1.
        assert_eq!(book.find([0, 2].into_iter()), Err(&[1, 0, 2][..]));
        assert_eq!(book.find([2, 1].into_iter()), Err(&[2, 1][..]));
        assert_eq!(book.best(&[1, 0, 2], |digits| -(digits[0] as f32)), 2);
        assert_eq!(book.best(&[1, 0, 2], |_| f32::NAN), 1);
        // Digits that a point has not are 0 and cost nothing here.
        assert_eq!(book.best_of_many(&[1, 0, 2], 3, |i, d| if i == 0 { 2.0 - d as f32 } else { 0.0 }), 2);
        assert_eq!(book.best_of_many(&[1, 0, 2], 3, |i, d| (i as f32 - d as f32).abs()), 1, "the first of equals");
        assert_eq!(book.best_of_many(&[1, 0, 2], 3, |_, _| f32::NAN), 1);
    }
}
