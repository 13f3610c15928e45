//! The search of the formats that keep signs apart from magnitudes: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.
//!
//! Magnitudes, in units of a scale, are odd numbers `2 * digit + 1` and form points of a [`Codebook`]. The formats differ in
//! few numbers, gathered in [`Lattice`]; the arithmetic is that of ggml's five `quantize_row_iq*_impl`. A faster search does
//! the steps of [`Lattice::quantize`] with a [`Lattice::fit`] of its own.

use super::codebook::{BLOCK, Codebook, weighting};
use super::search::{max, nearest, positive};
use std::sync::LazyLock;

/// What distinguishes the five formats' quantizers.
pub struct Lattice {
    /// The magnitudes.
    pub book: &'static LazyLock<Codebook>,
    /// Weights that share a scale: 16 or 32.
    pub group: usize,
    /// Number of digits.
    pub digits: i32,
    /// Scales tried on either side of the first.
    pub tries: i32,
    /// Distance of the scales tried, in units of half a digit.
    pub step: f32,
    /// An even number of the signs of eight weights are negative, so that seven bits hold them.
    pub even_signs: bool,
    /// Groups with all magnitudes below this are not coded.
    pub zero: f32,
    /// Where the search for a scale starts.
    pub start: Start,
    /// Which points are chosen again once the best scale is known.
    pub again: Again,
    /// Importance is multiplied with `sqrt(factor * mean square of the block + x^2)`.
    pub factor: f32,
    /// How much errors count without importance: `without(factor * mean square, x)`.
    pub without: fn(f32, f32) -> f32,
    /// Writes a block; its bytes are zero before.
    pub pack: fn(&Fitted, &mut [u8]),
}

/// Where the search for a scale starts.
#[derive(PartialEq, Eq, Clone, Copy)]
pub enum Start {
    /// From the largest magnitude.
    Largest,
    /// From the least-squares scale for plain integers.
    LeastSquares,
}

/// Which points are chosen again once the best scale is known.
#[derive(PartialEq, Eq, Clone, Copy)]
pub enum Again {
    /// All.
    All,
    /// All, if any was not at its exact place, or no scale was better than none.
    AllIfAny,
    /// Those that were not at their exact place.
    Displaced,
}

/// A coded group, or one of zeros (all fields zero).
#[derive(Default, Clone, Copy)]
pub struct Group {
    /// Its weights are not all zero.
    pub coded: bool,
    /// Least-squares scale.
    pub scale: f32,
    /// Index of the point of each `dims` weights.
    pub points: [u16; 8],
    /// Negative signs of each eight weights, first in the lowest bit.
    pub signs: [u8; 4],
}

/// A block before it is packed.
pub struct Fitted {
    /// Entries beyond the block's groups are zero.
    pub groups: [Group; 16],
    /// The block's scale; 0 if nothing is coded.
    pub scale: f32,
    /// The groups' scales, `l` for `2 * l + 1` times the block's.
    pub integers: [u8; 16],
}

impl Fitted {
    /// The block's scale for its groups'.
    pub fn new(groups: [Group; 16]) -> Fitted {
        let largest = groups.iter().filter(|g| g.coded).fold(0.0, |largest, g| max(largest, g.scale));
        let mut fitted = Fitted { groups, scale: 0.0, integers: [0; 16] };
        if largest == 0.0 {
            return fitted;
        }
        fitted.scale = largest / 31.0;
        let inverse = 1.0 / fitted.scale;
        for (integer, group) in fitted.integers.iter_mut().zip(&groups) {
            *integer = nearest(0.5 * (inverse * group.scale - 1.0)).clamp(0, 15) as u8;
        }
        fitted
    }
}

impl Lattice {
    /// Quantizes a block.
    pub(super) fn quantize(&self, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let fitted = self.fit(x, &self.weighting(x, importance));
        out.fill(0);
        (self.pack)(&fitted, out);
    }

    /// How much the errors of a block's weights count.
    pub fn weighting(&self, x: &[f32], importance: Option<&[f32]>) -> [f32; BLOCK] {
        weighting(x, importance, self.factor, self.without)
    }

    /// Codes a block.
    fn fit(&self, x: &[f32], weighting: &[f32; BLOCK]) -> Fitted {
        let mut groups = [Group::default(); 16];
        for (group, (x, w)) in groups.iter_mut().zip(x.chunks_exact(self.group).zip(weighting.chunks_exact(self.group)))
        {
            *group = self.fit_group(x, w).unwrap_or_default();
        }
        Fitted::new(groups)
    }

    /// `None` for groups that count as zero.
    fn fit_group(&self, x: &[f32], w: &[f32]) -> Option<Group> {
        let book = &**self.book;
        let n = self.group;
        let mut group = Group { coded: true, ..Group::default() };
        let mut magnitudes = [0.0; 32];
        for (k, (x, w)) in x.chunks_exact(8).zip(w.chunks_exact(8)).enumerate() {
            group.signs[k] = self.signs(x, w, &mut magnitudes[8 * k..][..8]);
        }
        let (magnitudes, roots) = (&magnitudes[..n], w.iter().map(|w| w.sqrt()).collect::<Buffer>());
        let mut high = magnitudes[1..].iter().fold(magnitudes[0], |m, &v| max(m, v));
        if high < self.zero {
            return None;
        }
        let most = (2 * self.digits - 1) as f32;
        group.scale = high / most;
        if self.start == Start::LeastSquares {
            group.scale = positive(magnitudes, self.digits + 1, w, &mut [0; 32][..n]);
            high = group.scale * self.digits as f32;
            if high <= 0.0 {
                return None;
            }
        }

        // The point for `dims` weights at a scale, and whether it is their exact place.
        let dims = book.dims;
        let snap = |k: usize, inverse: f32, scale: f32| -> (u16, bool) {
            let part = dims * k..dims * (k + 1);
            let (x, roots) = (&magnitudes[part.clone()], &roots.0[part]);
            let digit = |v: &f32| nearest(0.5 * (inverse * v - 1.0)).clamp(0, self.digits - 1) as u8;
            match book.find(x.iter().map(digit)) {
                Ok(point) => (point, true),
                Err(near) => {
                    let cost = |w: f32, d: u8, v: f32| {
                        let difference = scale * (2 * d + 1) as f32 - v;
                        w * difference * difference
                    };
                    let point = if dims == 8 {
                        book.best_of_many(near, self.digits as usize, |i, d| cost(roots[i], d, x[i]))
                    } else {
                        let weights = || x.iter().zip(roots);
                        book.best(near, |digits| {
                            digits.iter().zip(weights()).fold(0.0, |sum, (&d, (&v, &w))| sum + cost(w, d, v))
                        })
                    };
                    (point, false)
                }
            }
        };
        // Least squares for points: (sum of w x q, sum of w q^2).
        let sums = |points: &[u16; 8]| {
            let (mut qx, mut q2) = (0.0f32, 0.0f32);
            for (k, (x, w)) in magnitudes.chunks_exact(dims).zip(w.chunks_exact(dims)).enumerate() {
                for ((&v, &w), &digit) in x.iter().zip(w).zip(&book.points[points[k] as usize]) {
                    let q = (2 * digit + 1) as f32;
                    qx += w * v * q;
                    q2 += w * q * q;
                }
            }
            (qx, q2)
        };

        let parts = n / dims;
        let mut exact = [self.again == Again::Displaced; 8];
        let mut best = 0.0;
        for step in -self.tries..=self.tries {
            let inverse = (most + step as f32 * self.step) / high;
            let scale = 1.0 / inverse;
            let (mut points, mut exact_here) = ([0; 8], [true; 8]);
            for k in 0..parts {
                (points[k], exact_here[k]) = snap(k, inverse, scale);
            }
            let (qx, q2) = sums(&points);
            if q2 > 0.0 && qx * qx > best * q2 {
                group.scale = qx / q2;
                best = group.scale * qx;
                group.points = points;
                exact = exact_here;
            }
        }
        let displaced = |k: &usize| self.again != Again::Displaced || !exact[*k];
        if group.scale > 0.0 && (self.again == Again::All || exact[..parts].contains(&false)) {
            let inverse = 1.0 / group.scale;
            for k in (0..parts).filter(displaced) {
                group.points[k] = snap(k, inverse, group.scale).0;
            }
            let (qx, q2) = sums(&group.points);
            if q2 > 0.0 {
                group.scale = qx / q2;
            }
        }
        if group.scale < 0.0 {
            group.scale = -group.scale;
            let mask = if self.even_signs { 127 } else { 255 };
            group.signs.iter_mut().for_each(|s| *s = !*s & mask);
        }
        Some(group)
    }

    /// Splits eight weights into magnitudes and signs. Where the number of negative ones must be even and is odd, the one that
    /// matters least changes its sign: its magnitude becomes negative.
    pub fn signs(&self, x: &[f32], w: &[f32], magnitudes: &mut [f32]) -> u8 {
        let mut signs = 0u8;
        for (i, (m, &v)) in magnitudes.iter_mut().zip(x).enumerate() {
            let positive = v >= 0.0;
            *m = if positive { v } else { -v };
            signs |= (!positive as u8) << i;
        }
        if !self.even_signs {
            return signs;
        }
        if signs.count_ones() % 2 == 1 {
            let (mut weakest, mut least) = (0, w[0] * x[0] * x[0]);
            for i in 1..8 {
                let energy = w[i] * x[i] * x[i];
                if energy < least {
                    weakest = i;
                    least = energy;
                }
            }
            magnitudes[weakest] = -magnitudes[weakest];
            signs ^= 1 << weakest;
        }
        signs & 127
    }
}

/// Up to 32 floats on the stack.
struct Buffer([f32; 32]);

impl FromIterator<f32> for Buffer {
    fn from_iter<T: IntoIterator<Item = f32>>(numbers: T) -> Self {
        let mut buffer = Buffer([0.0; 32]);
        buffer.0.iter_mut().zip(numbers).for_each(|(b, x)| *b = x);
        buffer
    }
}

/// The eighth sign that seven even ones imply.
pub(super) fn all_signs(seven: u8) -> u8 {
    seven | ((seven.count_ones() % 2) as u8) << 7
}
