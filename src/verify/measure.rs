//! How far the weights of a file are from their source: over a whole tensor, and block by block.
//!
//! Quantization is deterministic, so the strongest measure comes first: the source's rows are quantized again, plainly,
//! and compared byte for byte. Where bytes differ (importance, GPTQ, an intermediate file), each block's largest error is
//! set against the one that plain quantization of the very same weights makes. That scale is the block's own, so that a
//! single wrong code or scale stands out from a million blocks, whatever their outliers.

use crate::method::QuantizeRows;
use crate::model::{Model, ModelTensor};
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use qconv_formats::gguf::{Gguf, TensorInfo};
use rayon::prelude::*;

/// Weights that one thread takes at a time, or one row where that is longer.
const SLICE: usize = 1 << 16;
/// Blocks that are remembered by place.
const REMEMBERED: usize = 8;

/// How a tensor was made, as far as that is known: what is "plain quantization" below.
#[derive(Clone, Copy, Default)]
pub struct Made<'a> {
    /// Per column, matrix after matrix of a stack.
    pub importance: Option<&'a [f32]>,
    /// The method of the file's recipe, where it quantizes rows; rounding to nearest is plain beside it.
    pub method: Option<QuantizeRows>,
}

/// A block, and its largest error over the largest one of plain quantization. For floats a block is one weight, and
/// the score is the distance from the rounded source in units of what another rounding could explain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suspect {
    /// Row over all outer dimensions.
    pub row: usize,
    /// Block in the row.
    pub block: usize,
    /// Error against plain quantization's.
    pub score: f32,
    /// Largest error.
    pub error: f32,
    /// Largest error of plain quantization.
    pub plain: f32,
    /// Largest distance, in levels, of a code from the nearest one on the block's own grid; 0 where the format has no
    /// codes of single weights.
    pub distance: u8,
}

/// Sums over a tensor or a part of it.
#[derive(Debug, Clone)]
pub struct Measure {
    /// Blocks (floats: weights).
    pub blocks: u64,
    /// Blocks whose bytes are those of plain quantization.
    pub exact: u64,
    /// Weights that are NaN or infinite in the source.
    pub source_nonfinite: u64,
    /// Largest difference.
    pub max_error: f32,
    /// Sum of squared differences.
    error: f64,
    /// The same for plain quantization of the source.
    plain_error: f64,
    source_square: f64,
    file_square: f64,
    product: f64,
    /// Scores of blocks that are not exact, on a logarithmic scale.
    scores: Histogram,
    /// The highest of them, highest first.
    worst: Vec<Suspect>,
    /// Weights in blocks that are not exact, by the distance of their code from the nearest one.
    distances: Distances,
    /// The same for a sample of rows, quantized with an importance that is made up.
    probe_distances: Distances,
    /// The blocks with the largest distances, largest first.
    farthest: Vec<Suspect>,
}

impl Measure {
    fn new() -> Self {
        Measure {
            blocks: 0,
            exact: 0,
            source_nonfinite: 0,
            max_error: 0.0,
            error: 0.0,
            plain_error: 0.0,
            source_square: 0.0,
            file_square: 0.0,
            product: 0.0,
            scores: Histogram([0; Histogram::BINS]),
            worst: Vec::new(),
            distances: [0; 8],
            probe_distances: [0; 8],
            farthest: Vec::new(),
        }
    }

    /// Compares a tensor of a file with its source, in parallel. Shapes have to agree but for outer ones.
    pub fn of(source: &Model, tensor: &ModelTensor, file: &Gguf, info: &TensorInfo, made: Made<'_>) -> Result<Self> {
        let (rows, cols) = (info.shape.rows(), info.shape.cols());
        let step = (SLICE / cols).max(1);
        let made = (made, made.importance.map_or(rows, |all| rows * cols / all.len()));
        let slice = |i: usize, scratch: &mut Scratch| {
            let first = i * step;
            let n = step.min(rows - first);
            scratch.source.resize(n * cols, 0.0);
            source.rows(tensor, first, &mut scratch.source)?;
            let row_bytes = info.range.len() / rows;
            let bytes = &file.bytes(info)[first * row_bytes..(first + n) * row_bytes];
            let mut part = Measure::new();
            part.rows(info.format, cols, first, bytes, made, scratch);
            Ok(part)
        };
        let parts: Vec<Result<Measure>> = (0..rows.div_ceil(step))
            .into_par_iter()
            .map_init(Scratch::default, |scratch, i| slice(i, scratch))
            .collect();
        source.forget(tensor);
        file.forget(info, 0..info.range.len());
        parts.into_iter().try_fold(Measure::new(), |all, part| Ok(all.merge(part?)))
    }

    /// RMS error over RMS of the source.
    pub fn relative_error(&self) -> f64 {
        ratio(self.error, self.source_square)
    }

    /// The same for plain quantization of the source.
    pub fn plain_relative_error(&self) -> f64 {
        ratio(self.plain_error, self.source_square)
    }

    /// Cosine of the angle between file and source.
    pub fn cosine(&self) -> f64 {
        let norms = (self.source_square * self.file_square).sqrt();
        if norms > 0.0 { self.product / norms } else { f64::from(u8::from(self.source_square == self.file_square)) }
    }

    /// The factor on the source that comes nearest to the file.
    pub fn scale(&self) -> f64 {
        self.product / self.source_square.max(f64::MIN_POSITIVE)
    }

    /// Blocks with a score of `limit` and above, as near as the histogram tells.
    pub fn above(&self, limit: f32) -> u64 {
        self.scores.above(limit)
    }

    /// The score that this part of the blocks that differ does not pass.
    pub fn quantile(&self, part: f64) -> f32 {
        self.scores.quantile(part)
    }

    /// The blocks with the highest scores, highest first.
    pub fn worst(&self) -> &[Suspect] {
        &self.worst
    }

    /// Weights in blocks that are not exact, by the distance of their code from the nearest one: in the file, and, for a
    /// sample, as the quantizer leaves them that has an importance to follow.
    pub fn distances(&self) -> (&Distances, &Distances) {
        (&self.distances, &self.probe_distances)
    }

    /// The blocks with the largest distances of codes, largest first.
    pub fn farthest(&self) -> &[Suspect] {
        &self.farthest
    }

    /// `made`: how, and the rows of a matrix, which share their importance.
    fn rows(
        &mut self,
        format: &'static BlockFormat,
        cols: usize,
        first: usize,
        bytes: &[u8],
        made: (Made<'_>, usize),
        scratch: &mut Scratch,
    ) {
        let Some(dequantize) = format.dequantize else { return };
        let row_bytes = cols / format.block_weights * format.block_bytes;
        scratch.file.resize(cols, 0.0);
        scratch.plain.resize(cols, 0.0);
        scratch.again.resize(row_bytes, 0);
        for (r, (source, bytes)) in scratch.source.chunks(cols).zip(bytes.chunks(row_bytes)).enumerate() {
            dequantize(bytes, &mut scratch.file);
            let finite = source.iter().all(|w| w.is_finite());
            // A quantizer knows no NaN; such rows are only counted.
            let again = format.quantize.filter(|_| finite);
            let equal = again.is_some_and(|quantize| {
                let (Made { importance, method }, rows) = made;
                let importance = importance.map(|all| &all[(first + r) / rows * cols..][..cols]);
                quantize(source, importance, &mut scratch.again);
                if let Some(method) = method.filter(|_| scratch.again != bytes) {
                    method(format, cols, source, importance, &mut scratch.again);
                }
                scratch.again == bytes
            });
            let plain = match again {
                Some(_) if equal => Plain::Same,
                Some(_) => {
                    dequantize(&scratch.again, &mut scratch.plain);
                    Plain::Differs { weights: &scratch.plain, bytes: &scratch.again }
                }
                None => Plain::Unknown,
            };
            self.row(format, first + r, source, &scratch.file, bytes, &plain);
            if let (Plain::Differs { .. }, Some(_), Some(quantize)) = (plain, format.scalar, again)
                && (first + r).is_multiple_of(PROBED)
            {
                scratch.importance.extend((scratch.importance.len()..cols).map(made_up));
                quantize(source, Some(&scratch.importance[..cols]), &mut scratch.again);
                let blocks = source.chunks(format.block_weights).zip(scratch.again.chunks(format.block_bytes));
                blocks.for_each(|(s, b)| _ = distance(format, s, b, &mut self.probe_distances));
            }
        }
    }

    fn row(&mut self, format: &BlockFormat, row: usize, source: &[f32], file: &[f32], bytes: &[u8], plain: &Plain<'_>) {
        let n = format.block_weights;
        for (b, (s, f)) in source.chunks(n).zip(file.chunks(n)).enumerate() {
            let place = b * format.block_bytes..(b + 1) * format.block_bytes;
            let (error, max) = self.sums(s, f);
            self.blocks += 1;
            self.max_error = self.max_error.max(max);
            match plain {
                Plain::Same => {
                    self.exact += 1;
                    self.plain_error += error;
                }
                Plain::Differs { bytes: again, .. } if again[place.clone()] == bytes[place.clone()] => {
                    self.exact += 1;
                    self.plain_error += error;
                }
                Plain::Differs { weights, .. } => {
                    let p = &weights[b * n..(b + 1) * n];
                    let (plain_error, plain_max) = differences(s, p);
                    self.plain_error += plain_error;
                    let score = if n == 1 { rounding(format, p[0], f[0]) } else { over(max, plain_max, s) };
                    let farthest = distance(format, s, &bytes[place.clone()], &mut self.distances);
                    self.suspect(Suspect { row, block: b, score, error: max, plain: plain_max, distance: farthest });
                }
                Plain::Unknown => {
                    // What the format is expected to do to weights of this size, and three deviations of it.
                    let square: f64 = s.iter().filter(|w| w.is_finite()).map(|&w| f64::from(w).powi(2)).sum();
                    let expected = f64::from(format.expected_error);
                    self.plain_error += square * expected * expected;
                    let plain_max = (3.0 * expected * (square / n as f64).sqrt()) as f32;
                    let score = over(max, plain_max, s);
                    self.suspect(Suspect { row, block: b, score, error: max, plain: plain_max, distance: 0 });
                }
            }
        }
    }

    /// Adds a block's sums; its squared and largest error. Weights that are not finite in the source count as equal.
    fn sums(&mut self, source: &[f32], file: &[f32]) -> (f64, f32) {
        let (mut error, mut max) = (0.0, 0f32);
        for (&s, &f) in source.iter().zip(file) {
            if !s.is_finite() {
                self.source_nonfinite += 1;
                continue;
            }
            // A weight that is NaN in the file is found by the check for that; here it is as wrong as can be.
            let f = if f.is_finite() { f } else { f32::MAX };
            let (s, f) = (f64::from(s), f64::from(f));
            let d = s - f;
            error += d * d;
            max = max.max(d.abs() as f32);
            self.source_square += s * s;
            self.file_square += f * f;
            self.product += s * f;
        }
        self.error += error;
        (error, max)
    }

    fn suspect(&mut self, suspect: Suspect) {
        self.scores.add(suspect.score);
        let at = self.worst.partition_point(|w| w.score >= suspect.score);
        if at < REMEMBERED {
            self.worst.insert(at, suspect);
            self.worst.truncate(REMEMBERED);
        }
        let at = self.farthest.partition_point(|w| w.distance >= suspect.distance);
        if at < REMEMBERED && suspect.distance > 0 {
            self.farthest.insert(at, suspect);
            self.farthest.truncate(REMEMBERED);
        }
    }

    /// Both together; `self` is the part that comes first in the tensor.
    fn merge(mut self, other: Measure) -> Self {
        self.blocks += other.blocks;
        self.exact += other.exact;
        self.source_nonfinite += other.source_nonfinite;
        self.max_error = self.max_error.max(other.max_error);
        self.error += other.error;
        self.plain_error += other.plain_error;
        self.source_square += other.source_square;
        self.file_square += other.file_square;
        self.product += other.product;
        self.scores.0.iter_mut().zip(other.scores.0).for_each(|(a, b)| *a += b);
        self.worst.extend(other.worst);
        self.worst.sort_by(|a, b| b.score.total_cmp(&a.score).then((a.row, a.block).cmp(&(b.row, b.block))));
        self.worst.truncate(REMEMBERED);
        self.distances.iter_mut().zip(other.distances).for_each(|(a, b)| *a += b);
        self.probe_distances.iter_mut().zip(other.probe_distances).for_each(|(a, b)| *a += b);
        self.farthest.extend(other.farthest);
        self.farthest.sort_by_key(|s| (std::cmp::Reverse(s.distance), s.row, s.block));
        self.farthest.truncate(REMEMBERED);
        self
    }
}

/// Numbers of weights by the distance of their code from the nearest one, in levels; the last is "7 and more".
pub type Distances = [u64; 8];

/// An error that is larger by this part of a level's width than the nearest code's: less is a matter of rounding.
const NEARLY: f32 = 0.05;

/// Counts how far a block's codes are from those that are nearest to the source on the block's own grid; the largest
/// distance. Groups whose scale is zero hold codes that mean nothing.
fn distance(format: &BlockFormat, source: &[f32], block: &[u8], count: &mut Distances) -> u8 {
    let Some(scalar) = format.scalar else { return 0 };
    let mut codes = vec![0; source.len()];
    let grid = scalar.unpack(block, &mut codes);
    let levels = scalar.levels();
    let mut largest = 0;
    for (i, (&w, &code)) in source.iter().zip(&codes).enumerate() {
        let scale = grid.scale[i / scalar.group()];
        if scale == 0.0 || !scale.is_finite() {
            continue;
        }
        let nearest = scalar.code(&grid, i, w);
        let (a, b) = (scalar.value(&grid, i, code), scalar.value(&grid, i, nearest));
        let mut distance = 0;
        if (w - a).abs() - (w - b).abs() > NEARLY * (a - b).abs() {
            // Levels between the two; those of the 4-bit floats are in no order.
            let (a, b) = (levels[usize::from(code)], levels[usize::from(nearest)]);
            distance = levels.iter().filter(|&&l| l > a.min(b) && l <= a.max(b)).count().min(7);
        }
        count[distance] += 1;
        largest = largest.max(distance as u8);
    }
    largest
}

/// One row in so many is quantized with importance, to see how the format's quantizer chooses codes.
const PROBED: usize = 4;

/// An importance from 1/16 to 16, anyhow.
fn made_up(column: usize) -> f32 {
    ((column.wrapping_mul(2_654_435_761) >> 7) as f32 % 257.0 / 32.0 - 4.0).exp2()
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    importance: Vec<f32>,
    source: Vec<f32>,
    file: Vec<f32>,
    plain: Vec<f32>,
    again: Vec<u8>,
}

/// A row after plain quantization of its source.
enum Plain<'a> {
    /// The same bytes.
    Same,
    Differs {
        weights: &'a [f32],
        bytes: &'a [u8],
    },
    /// The format has no quantizer, or the source is not finite.
    Unknown,
}

fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { (a / b).sqrt() }
}

fn differences(source: &[f32], other: &[f32]) -> (f64, f32) {
    source.iter().zip(other).fold((0.0, 0f32), |(sum, max), (&s, &o)| {
        let d = f64::from(s) - f64::from(o);
        (sum + d * d, max.max(d.abs() as f32))
    })
}

/// An error over plain quantization's. Where that is next to nothing (a block of zeros, of equal weights), the smallest
/// difference that matters stands in for it.
fn over(error: f32, plain: f32, source: &[f32]) -> f32 {
    let largest = source.iter().filter(|w| w.is_finite()).fold(0f32, |m, w| m.max(w.abs()));
    let least = plain.max(largest * 1e-3).max(1e-30);
    if error == 0.0 { 0.0 } else { error / least }
}

/// The distance of a float from its rounded source, in units of what another way of rounding could explain: 2 units in
/// the last place of F32, one of F16 and BF16 (whose mean error is known to be a fifth of that or more).
fn rounding(format: &BlockFormat, rounded: f32, file: f32) -> f32 {
    let relative = (5.0 * format.expected_error).max(2.4e-7);
    // The smallest step of F16: software that flushes such numbers to zero does no harm.
    let least = if format.block_bytes == 2 { 6e-8 } else { f32::MIN_POSITIVE };
    (rounded - file).abs() / (relative * rounded.abs()).max(least)
}

/// Counts of scores, eight to an octave, from 2^-8 to 2^24.
#[derive(Debug, Clone)]
struct Histogram([u64; Histogram::BINS]);

impl Histogram {
    const BINS: usize = 32 * 8;

    fn bin(score: f32) -> usize {
        // NaN becomes 0 by the cast: a score is never NaN.
        (((score.max(1e-9).log2() + 8.0) * 8.0).max(0.0) as usize).min(Self::BINS - 1)
    }

    fn add(&mut self, score: f32) {
        self.0[Self::bin(score)] += 1;
    }

    fn above(&self, limit: f32) -> u64 {
        self.0[Self::bin(limit)..].iter().sum()
    }

    fn quantile(&self, part: f64) -> f32 {
        let total: u64 = self.0.iter().sum();
        let mut left = (total as f64 * part).ceil() as u64;
        for (i, &n) in self.0.iter().enumerate() {
            if n >= left {
                return if total == 0 { 0.0 } else { ((i + 1) as f32 / 8.0 - 8.0).exp2() };
            }
            left -= n;
        }
        0.0
    }
}
