//! The search of the formats that keep signs apart from magnitudes: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.
//!
//! Magnitudes, in units of a scale, are odd numbers `2 * digit + 1` and form points of a [`Codebook`]. The formats differ in
//! few numbers, gathered in [`Rule`]; the arithmetic is that of ggml's five `quantize_row_iq*_impl`.

use super::codebook::{BLOCK, Codebook};
use super::search::{max, nearest, positive};
use std::sync::LazyLock;

/// What distinguishes the five formats' searches.
pub(super) struct Rule {
    pub(super) book: &'static LazyLock<Codebook>,
    /// Weights that share a scale: 16 or 32.
    pub(super) group: usize,
    /// Number of digits.
    pub(super) digits: i32,
    /// Scales tried on either side of the first, and their distance in units of half a digit.
    pub(super) tries: i32,
    pub(super) step: f32,
    /// An even number of the signs of eight weights are negative, so that seven bits hold them.
    pub(super) even_signs: bool,
    /// Groups with all magnitudes below this are not coded.
    pub(super) zero: f32,
    pub(super) start: Start,
    pub(super) again: Again,
}

/// Where the search for a scale starts.
#[derive(PartialEq)]
pub(super) enum Start {
    /// From the largest magnitude.
    Largest,
    /// From the least-squares scale for plain integers.
    LeastSquares,
}

/// Which points are chosen again once the best scale is known.
#[derive(PartialEq)]
pub(super) enum Again {
    /// All.
    All,
    /// All, if any was not at its exact place, or no scale was better than none.
    AllIfAny,
    /// Those that were not at their exact place.
    Displaced,
}

/// A coded group, or one of zeros (all fields zero).
#[derive(Default, Clone, Copy)]
pub(super) struct Group {
    /// Its weights are not all zero.
    pub(super) coded: bool,
    scale: f32,
    /// Index of the point of each `dims` weights.
    pub(super) points: [u16; 8],
    /// Negative signs of each eight weights, first in the lowest bit.
    pub(super) signs: [u8; 4],
}

impl Rule {
    /// Codes a block: its groups, the block's scale (0 if nothing is coded) and the groups' scales as integers `l`
    /// that stand for `2 * l + 1`.
    pub(super) fn fit(&self, x: &[f32], weighting: &[f32; BLOCK]) -> ([Group; 16], f32, [u8; 16]) {
        let mut groups = [Group::default(); 16];
        let mut largest = 0.0;
        for (g, (x, w)) in x.chunks_exact(self.group).zip(weighting.chunks_exact(self.group)).enumerate() {
            if let Some(group) = self.fit_group(x, w) {
                groups[g] = group;
                largest = max(largest, group.scale);
            }
        }
        let mut integers = [0; 16];
        if largest == 0.0 {
            return (groups, 0.0, integers);
        }
        let scale = largest / 31.0;
        let inverse = 1.0 / scale;
        for (integer, group) in integers.iter_mut().zip(&groups) {
            *integer = nearest(0.5 * (inverse * group.scale - 1.0)).clamp(0, 15) as u8;
        }
        (groups, scale, integers)
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
    fn signs(&self, x: &[f32], w: &[f32], magnitudes: &mut [f32]) -> u8 {
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
