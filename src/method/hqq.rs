//! Half-quadratic quantization (Badri & Shaji 2023, <https://mobiusml.github.io/hqq_blog/>), without any data.
//!
//! Scale and minimum of each group minimize `sum |e|^p` of the errors with p < 1, which forgives a few large errors for many
//! small ones. Half-quadratic splitting alternates between an auxiliary error (a generalized soft threshold of the real one)
//! and a least-squares fit of scale and minimum to the weights without it. Differences from the paper, because blocks have
//! headers of their own: the start is the grid that the format's quantizer finds, not the extremes; the scale is fitted
//! too; errors are counted in grid steps, so that the result does not depend on a model's units; scales and minimums are
//! rounded as the block holds them; and what comes out is taken only where neither that norm nor the weighted squares of the errors,
//! which the format's own search minimizes, are worse than the start's.

use super::{Method, Needs, Work, rtn};
use qconv_formats::block::{BlockFormat, Grid, ScalarCodes, mean_square};
use std::ops::Range;

/// Half-quadratic fit.
pub static HQQ: Method = Method {
    name: "hqq",
    help: "half-quadratic fit of scales and minimums (HQQ), no data needed",
    needs: Needs::Nothing,
    work: Work::Rows(rows),
    suits: |format: &BlockFormat| {
        if format.scalar.is_some() || !format.is_quantized() {
            Ok(())
        } else {
            Err("its codes stand for whole groups of a codebook, which have no scale and minimum to fit")
        }
    },
};

/// See [`super::QuantizeRows`].
pub fn rows(format: &'static BlockFormat, cols: usize, weights: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    // The format's own search is the start, and fast.
    rtn::rows(format, cols, weights, importance, out);
    let Some(scalar) = format.scalar else { return };
    let row_bytes = out.len() / (weights.len() / cols);
    let levels = Levels::of(scalar.levels());
    let n = format.block_weights;
    for (row, out) in weights.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)) {
        for (b, (x, out)) in row.chunks_exact(n).zip(out.chunks_exact_mut(format.block_bytes)).enumerate() {
            let importance = importance.map(|i| &i[b * n..][..n]);
            block(scalar, &levels, x, importance, out);
        }
    }
}

/// `|x|^p` with p = 3/4: of the exponents below 1 the one next to the paper's 0.7 that takes two square roots and no
/// logarithm.
fn norm(x: f32) -> f32 {
    let root = x.abs().sqrt();
    root * root.sqrt()
}

/// Weight of the quadratic penalty at the start, and its growth (the paper's beta and kappa).
const BETA: (f32, f32) = (10.0, 1.05);
/// Alternations at most.
const STEPS: usize = 20;

/// What errors cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// By hqq's own norm.
    norm: f64,
    /// By their squares, those of large weights more: `sqrt(mean square + x^2)` times, as ggml's searches weigh them.
    squares: f64,
}

impl Cost {
    /// Better by the one without being worse by the other. The norm alone forgives what a model does not: where importance tells
    /// columns apart, taking whatever lowers it made Q3_K_S of a small model 7 % worse than rounding.
    fn beats(self, other: Cost) -> bool {
        self.norm < other.norm && self.squares <= other.squares
    }
}

/// One block on its way.
struct Block<'a> {
    scalar: &'a dyn ScalarCodes,
    x: &'a [f32],
    importance: Option<&'a [f32]>,
    mean_square: f32,
}

/// Grid and codes of a block.
struct Solution {
    grid: Grid,
    codes: [u8; 256],
}

/// Improves one block, which holds what the format's own search found.
fn block(scalar: &dyn ScalarCodes, levels: &Levels, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let mut codes = [0u8; 256];
    let grid = scalar.unpack(out, &mut codes[..x.len()]);
    let start = Solution { grid, codes };
    let block = Block { scalar, x, importance, mean_square: mean_square(x) };
    let groups = x.len() / scalar.group();
    let (mut scale, mut min) = (start.grid.scale, start.grid.min);
    let has_minimum = scalar.grid(&scale[..groups], &[1.0; 16][..groups], None).min.iter().any(|m| *m != 0.0);
    for g in 0..groups {
        let at = g * scalar.group()..(g + 1) * scalar.group();
        let weighting = importance.map(|i| &i[at.clone()]);
        (scale[g], min[g]) = fit_group(levels, &x[at], weighting, scale[g], min[g], has_minimum);
    }
    let (scale, min) = (&scale[..groups], &min[..groups]);
    let cost = |s: &Solution| block.cost(s, 0..x.len());
    let mut best = (cost(&start), None);
    // All groups anew, and group by group in the units that the block has: rounding the units anew may cost more than it gains.
    let others = [Some(block.anew(scale, min)), block.in_steps(&start, scale, min)];
    for other in others.iter().flatten() {
        let cost = cost(other);
        if cost.beats(best.0) {
            best = (cost, Some(other));
        }
    }
    if let Some(better) = best.1 {
        scalar.pack(&better.grid, &better.codes[..x.len()], out);
    }
}

impl Block<'_> {
    /// Of the weights in `at`.
    fn cost(&self, solution: &Solution, at: Range<usize>) -> Cost {
        let mut cost = Cost { norm: 0.0, squares: 0.0 };
        for i in at {
            let weight = self.importance.map_or(1.0, |w| f64::from(w[i]));
            let error = self.scalar.value(&solution.grid, i, solution.codes[i]) - self.x[i];
            let large = f64::from((self.mean_square + self.x[i] * self.x[i]).sqrt());
            cost.norm += weight * f64::from(norm(error));
            cost.squares += weight * large * f64::from(error) * f64::from(error);
        }
        cost
    }

    /// The nearest codes of the weights in `at`.
    fn choose(&self, solution: &mut Solution, at: Range<usize>) {
        for i in at {
            solution.codes[i] = self.scalar.code(&solution.grid, i, self.x[i]);
        }
    }

    /// With these scales and minimums, as the block can hold them.
    fn anew(&self, scale: &[f32], min: &[f32]) -> Solution {
        let count: Option<Vec<f32>> =
            self.importance.map(|i| i.chunks(self.scalar.group()).map(|g| g.iter().sum()).collect());
        let mut solution = Solution { grid: self.scalar.grid(scale, min, count.as_deref()), codes: [0; 256] };
        self.choose(&mut solution, 0..self.x.len());
        solution
    }

    /// With these scales and minimums in those groups that are better for it, in the units of `start`. `None` where groups have no
    /// whole numbers of units.
    fn in_steps(&self, start: &Solution, scale: &[f32], min: &[f32]) -> Option<Solution> {
        let mut steps = self.scalar.steps(&start.grid).filter(|s| s.scales.0 < s.scales.1 && s.unit != 0.0)?;
        let mut now = Solution { grid: start.grid.clone(), codes: start.codes };
        for g in 0..scale.len() {
            let at = g * self.scalar.group()..(g + 1) * self.scalar.group();
            let mut other = steps;
            other.scale[g] = ((scale[g] / steps.unit).round() as i16).clamp(steps.scales.0, steps.scales.1);
            if steps.min_unit != 0.0 {
                other.min[g] = ((min[g] / steps.min_unit).round() as i16).clamp(steps.mins.0, steps.mins.1);
            }
            if other == steps {
                continue;
            }
            let mut moved = Solution { grid: self.scalar.stepped(&other)?, codes: now.codes };
            self.choose(&mut moved, at.clone());
            if self.cost(&moved, at.clone()).beats(self.cost(&now, at)) {
                (steps, now) = (other, moved);
            }
        }
        Some(now)
    }
}

/// Scale and minimum of one group.
fn fit_group(
    levels: &Levels,
    x: &[f32],
    weighting: Option<&[f32]>,
    mut scale: f32,
    mut min: f32,
    has_minimum: bool,
) -> (f32, f32) {
    let mut beta = BETA.0;
    let mut best = (f32::INFINITY, scale, min);
    for _ in 0..STEPS {
        if scale == 0.0 || !scale.is_finite() {
            break;
        }
        // Weighted sums for the regression of weight - error on level.
        let (mut n, mut sl, mut sy, mut sll, mut sly, mut total) = (0f64, 0f64, 0f64, 0f64, 0f64, 0f32);
        for (i, &w) in x.iter().enumerate() {
            let position = (w + min) / scale;
            let level = levels.nearest(position);
            let error = position - level;
            let weight = weighting.map_or(1.0, |v| v[i]);
            let size = error.abs();
            let (half, quarter) = (size.sqrt(), size.sqrt().sqrt());
            total += weight * half * quarter; // the norm, in steps of the grid
            let kept = if size > 0.0 { (size - 1.0 / (beta * quarter)).max(0.0).copysign(error) } else { 0.0 };
            let y = f64::from(w - kept * scale);
            let (weight, level) = (f64::from(weight), f64::from(level));
            n += weight;
            sl += weight * level;
            sy += weight * y;
            sll += weight * level * level;
            sly += weight * level * y;
        }
        let total = total * norm(scale);
        if total >= best.0 {
            break;
        }
        best = (total, scale, min);
        let spread = n * sll - sl * sl;
        if has_minimum && spread > 1e-12 * (n * sll).abs() {
            let slope = (n * sly - sl * sy) / spread;
            let offset = (slope * sl - sy) / n;
            // Minimums are never negative in these formats.
            if offset >= 0.0 && slope > 0.0 {
                (scale, min) = (slope as f32, offset as f32);
            } else if sll > 0.0 {
                (scale, min) = ((sly / sll) as f32, 0.0);
            }
        } else if !has_minimum && sll > 0.0 {
            scale = (sly / sll) as f32;
        }
        beta *= BETA.1;
    }
    (best.1, best.2)
}

/// What a format's codes stand for, in order.
struct Levels {
    first: f32,
    last: f32,
    /// Unless they are whole numbers without a gap: levels, and what lies halfway between each and the next.
    uneven: Option<([f32; UNEVEN], [f32; UNEVEN])>,
}

/// Levels of formats whose levels are not evenly spaced, at most.
const UNEVEN: usize = 16;

impl Levels {
    fn of(levels: &[f32]) -> Self {
        let mut sorted = levels.to_vec();
        sorted.sort_by(f32::total_cmp);
        let (first, last) = (sorted[0], sorted[sorted.len() - 1]);
        if last - first == (sorted.len() - 1) as f32 {
            return Levels { first, last, uneven: None };
        }
        let at = |i: usize| sorted[i.min(sorted.len() - 1)];
        let halfway = |i: usize| if i + 1 < sorted.len() { (at(i) + at(i + 1)) / 2.0 } else { f32::INFINITY };
        let uneven = Some((std::array::from_fn(at), std::array::from_fn(halfway)));
        Levels { first, last, uneven }
    }

    /// The one nearest to a position.
    fn nearest(&self, position: f32) -> f32 {
        match &self.uneven {
            None => position.round().clamp(self.first, self.last),
            // Without branches: this is most of the time that such a format takes.
            Some((levels, halfway)) => {
                let below: u32 = halfway.iter().map(|h| u32::from(position > *h)).sum();
                levels[below as usize % UNEVEN]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qconv_formats::block;

    /// Reproducible numbers with a long tail, as trained weights have.
    fn weights(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>().powi(3) * 0.1).collect()
    }

    /// The norm of all errors, and the weighted squares of each block's.
    fn costs(format: &BlockFormat, row: &[f32], importance: &[f32], bytes: &[u8]) -> (f64, Vec<f64>) {
        let mut back = vec![0f32; row.len()];
        (format.dequantize.unwrap())(bytes, &mut back);
        let n = format.block_weights;
        let errors: Vec<f32> = row.iter().zip(&back).map(|(x, y)| x - y).collect();
        let squares = row.chunks(n).zip(errors.chunks(n)).zip(importance.chunks(n)).map(|((x, e), importance)| {
            let mean = mean_square(x);
            let of = |((x, e), i): ((&f32, &f32), &f32)| f64::from(i * (mean + x * x).sqrt()) * f64::from(*e).powi(2);
            x.iter().zip(e).zip(importance).map(of).sum()
        });
        (errors.iter().zip(importance).map(|(e, i)| f64::from(i * super::norm(*e))).sum(), squares.collect())
    }

    #[test]
    fn neither_norm_nor_squares_are_worse_than_rounding_s_and_the_norm_is_mostly_better() {
        let row = weights(4096);
        let some: Vec<f32> = (0..row.len()).map(|i| ((i * 7919 % 101) as f32 / 25.0).exp()).collect();
        let ones = vec![1.0; row.len()];
        let mut better = Vec::new();
        for format in block::ALL.iter().copied().filter(|f| f.scalar.is_some() && f.quantize.is_some()) {
            for (importance, known) in [(&ones, None), (&some, Some(&some[..]))] {
                let mut bytes = vec![0u8; format.row_bytes(row.len()).unwrap()];
                (format.quantize.unwrap())(&row, known, &mut bytes);
                let plain = costs(format, &row, importance, &bytes);
                super::rows(format, row.len(), &row, known, &mut bytes);
                let fitted = costs(format, &row, importance, &bytes);
                let name = format.name;
                assert!(fitted.0 <= plain.0 * (1.0 + 1e-6), "{name}: {} after {}", fitted.0, plain.0);
                for (fitted, plain) in fitted.1.iter().zip(&plain.1) {
                    assert!(*fitted <= plain * (1.0 + 1e-5), "{name}: {fitted} after {plain}");
                }
                if known.is_none() && fitted.0 < plain.0 * 0.995 {
                    better.push(name);
                }
            }
        }
        for name in ["Q4_0", "Q4_1", "Q4_K"] {
            assert!(better.contains(&name), "{name} gains nothing; {better:?} do");
        }
    }

    #[test]
    fn nearest_levels_are_those_of_a_plain_search() {
        for format in block::ALL.iter() {
            let Some(scalar) = format.scalar else { continue };
            let (levels, all) = (Levels::of(scalar.levels()), scalar.levels());
            assert!(levels.uneven.is_none() || all.len() <= UNEVEN, "{}", format.name);
            for i in -5000..5000 {
                let x = i as f32 * 0.0517;
                let far = |l: &f32| (l - x).abs();
                let best = all.iter().map(far).fold(f32::INFINITY, f32::min);
                assert!(far(&levels.nearest(x)) <= best + 1e-4, "{}: {x} -> {}", format.name, levels.nearest(x));
            }
        }
    }

    #[test]
    fn zeros_and_importance_are_taken() {
        let mut row = vec![0f32; 512];
        row[300..].copy_from_slice(&weights(212));
        let importance: Vec<f32> = (0..512).map(|i| if i % 7 == 0 { 0.0 } else { i as f32 }).collect();
        for format in block::ALL.iter().copied().filter(|f| f.scalar.is_some() && f.quantize.is_some()) {
            let mut bytes = vec![0u8; format.row_bytes(512).unwrap()];
            super::rows(format, 512, &row, Some(&importance), &mut bytes);
            assert_eq!((format.find_nonfinite)(&bytes), None, "{}", format.name);
        }
    }

    #[test]
    fn codebooks_are_refused_with_the_reason() {
        let refused = |name| (HQQ.suits)(BlockFormat::by_name(name).unwrap());
        assert!(refused("IQ2_XS").unwrap_err().contains("codebook"));
        assert_eq!(refused("IQ4_XS"), Ok(()));
        assert_eq!(refused("F16"), Ok(()));
    }
}
