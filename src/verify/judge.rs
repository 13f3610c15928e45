//! From measures to a verdict.

use super::Findings;
use super::finite::block_place;
use super::guess::guess;
use super::measure::{Distances, Measure, Suspect};
use crate::model::{Model, ModelTensor};
use anyhow::Result;
use qconv_formats::block::BlockFormat;
use qconv_formats::gguf::{Gguf, TensorInfo};
use serde::Serialize;

/// Whether a tensor is its source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every byte is what plain quantization of the source gives: proved.
    Exact,
    /// Not the same bytes, but errors as a quantizer makes them.
    Plausible,
    /// Errors that no quantizer makes.
    Wrong,
}

/// A tensor's error may be this much larger than plain quantization's: importance and error feedback trade the errors of
/// weights for those of outputs. (Importance: up to 1.05 on the models tried; GPTQ more.)
const TENSOR_SLACK: f64 = 2.5;
/// Where the recipe says that weights were moved on purpose: a method that aims at the original's outputs trades the errors of
/// weights far more freely. (`gptq` on small models: up to 2.7 times plain quantization's, at Q8_0.)
const TENSOR_SLACK_MOVED: f64 = 4.0;
/// ... and a small part of the weights themselves, which is much beside the errors of 8 bits. (Seen: 0.014.)
const MOVED: f64 = 0.1;
/// An error of 1 is that of all zeros; other weights give 1.4. Only the coarsest formats come near.
const TENSOR_MOST: f64 = 0.9;
/// A block's largest error may be this much larger than plain quantization's. (Importance: up to 8 in formats with codes
/// of single weights, where damage shows in the codes too; up to 4 in codebooks.)
const BLOCK_SLACK: f32 = 16.0;
/// The same for codebooks.
const BLOCK_SLACK_CODEBOOK: f32 = 8.0;
/// ... and this much larger than in 99 of 100 blocks that differ.
const BLOCK_OUTLIER: f32 = 4.0;
/// Where nearly all blocks are plain quantization's, the rest have to be as good.
const BLOCK_SLACK_MOSTLY: f32 = 1.5;
/// "Nearly all". Quantizers that were compiled with fused multiply-add differ in 0.02 to 1.5% of blocks.
const MOSTLY: f64 = 0.97;
/// So few blocks that differ are no matter of compilers.
const FEW: f64 = 1e-4;
/// Another way of rounding changes at least this part of a float tensor's weights, and at least so many.
const ROUNDED: (f64, u64) = (0.05, 16);
/// Weights that have to be seen before the absence of far codes means something.
const ENOUGH: u64 = 30_000;
/// More far codes than this are no damage: a method with error feedback chose them.
const FEEDBACK: f64 = 1e-3;

/// How the tensors of each format were quantized, as far as all of them together show.
pub struct Habits {
    formats: Vec<(&'static BlockFormat, Habit)>,
    /// All quantized blocks are plain quantization's, but for a few.
    few_differ: bool,
    /// The file's recipe names a method that moves weights on purpose.
    moved: bool,
}

#[derive(Default)]
struct Habit {
    blocks: u64,
    exact: u64,
    distances: Distances,
    probe_distances: Distances,
}

impl Habits {
    /// Sums up. `moved`: the file's recipe names a method that moves weights on purpose, to make up for errors elsewhere.
    pub fn new<'a>(measures: impl Iterator<Item = (&'static BlockFormat, &'a Measure)>, moved: bool) -> Self {
        let mut all: Vec<(&'static BlockFormat, Habit)> = Vec::new();
        for (format, m) in measures {
            let at = all.iter().position(|(f, _)| *f == format).unwrap_or_else(|| {
                all.push((format, Habit::default()));
                all.len() - 1
            });
            let habit = &mut all[at].1;
            habit.blocks += m.blocks;
            habit.exact += m.exact;
            let (file, probe) = m.distances();
            habit.distances.iter_mut().zip(file).for_each(|(a, b)| *a += b);
            habit.probe_distances.iter_mut().zip(probe).for_each(|(a, b)| *a += b);
        }
        let quantized = || all.iter().filter(|(f, _)| f.is_quantized()).map(|(_, h)| h);
        let blocks: u64 = quantized().map(|h| h.blocks).sum();
        let differing: u64 = quantized().map(|h| h.blocks - h.exact).sum();
        let few_differ = differing as f64 <= (FEW * blocks as f64).max(2.0);
        Habits { formats: all, few_differ, moved }
    }

    fn of(&self, format: &BlockFormat) -> &Habit {
        let habit = self.formats.iter().find(|(f, _)| *f == format);
        habit.map(|(_, h)| h).expect("habits were made from the same tensors")
    }
}

impl Habit {
    /// Plain quantization by another compiler, or damage.
    fn mostly_exact(&self) -> bool {
        self.exact as f64 >= MOSTLY * self.blocks as f64
    }

    /// From this distance on, codes are not chosen but damaged. Some quantizers choose the nearest codes once the scale is
    /// fixed (K-quants do), so any other code is odd; others refit the scale afterwards, and 1 or 2 levels happen.
    fn far(&self) -> Option<usize> {
        let [total, probed] = [&self.distances, &self.probe_distances].map(|d| d.iter().sum::<u64>());
        let beyond = |count: &Distances, from: usize| count[from..].iter().sum::<u64>();
        let chosen = beyond(&self.probe_distances, 1) == 0 && probed >= ENOUGH;
        let far = if chosen { 1 } else { 3 };
        ((beyond(&self.distances, far) as f64) < FEEDBACK * total as f64).then_some(far)
    }
}

/// A tensor and its source.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// The source.
    pub source: &'a Model,
    /// Its tensor.
    pub tensor: &'a ModelTensor,
    /// The file.
    pub file: &'a Gguf,
    /// Its tensor.
    pub info: &'a TensorInfo,
}

/// Judges a tensor and tells what is wrong.
pub fn judge(m: &Measure, habits: &Habits, pair: &Pair<'_>, findings: &mut Findings) -> Result<Verdict> {
    let info = pair.info;
    let place = format!("tensor {}", info.name);
    if m.source_nonfinite > 0 {
        findings.problem(&place, format!("{} weights of the source itself are NaN or infinite", m.source_nonfinite));
    }
    if m.exact == m.blocks {
        return Ok(Verdict::Exact);
    }
    let habit = habits.of(info.format);
    let quantized = info.format.block_weights > 1;
    // Where single weights were moved on purpose, neither codes nor blocks tell damage: the recorded digests do.
    let moved = habits.moved && quantized;
    let local = || if quantized && !moved { blocks(m, info, habit, habits.few_differ) } else { None };
    // Where most of a tensor is right, the place of the rest says more than the error of all.
    let mostly = m.exact as f64 >= MOSTLY * m.blocks as f64;
    let problem = if mostly {
        local().map_or_else(|| whole(m, pair, moved), |p| Ok(Some(p)))?
    } else {
        whole(m, pair, moved)?.or_else(local)
    };
    if let Some(problem) = problem {
        findings.problem(place, problem);
        return Ok(Verdict::Wrong);
    }
    if !quantized {
        return Ok(floats(m, pair, findings));
    }
    if habit.mostly_exact() && !moved {
        let what = format!(
            "{} of {} blocks are not what plain quantization gives, though as good: a quantizer built by other rules of rounding?",
            m.blocks - m.exact,
            m.blocks
        );
        findings.note(place, what);
    }
    Ok(Verdict::Plausible)
}

/// The error over all weights.
fn whole(m: &Measure, pair: &Pair<'_>, moved: bool) -> Result<Option<String>> {
    let format = pair.info.format;
    let plain = m.plain_relative_error();
    let plain = if plain > 0.0 { plain } else { format.expected_error.into() };
    let (slack, least) = if moved { (TENSOR_SLACK_MOVED, MOVED) } else { (TENSOR_SLACK, 1e-6) };
    let limit = (slack * plain).min(TENSOR_MOST.max(1.1 * plain)).max(least);
    if m.relative_error() <= limit {
        return Ok(None);
    }
    let what =
        format!("relative error {:.3}, where {} gives {plain:.2e} on these weights", m.relative_error(), format.name);
    Ok(Some(match guess(m, plain, pair)? {
        Some(guess) => format!("{what}: {guess}"),
        None => what,
    }))
}

/// The errors of single blocks.
fn blocks(m: &Measure, info: &TensorInfo, habit: &Habit, few_differ: bool) -> Option<String> {
    let n = m.blocks - m.exact;
    let plural = |n: u64, one: &str, many: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {many}") };
    let first = m.worst().first()?;
    if few_differ {
        let some = plural(n, "block is", "blocks are");
        return Some(format!(
            "{some} not what plain quantization of the source gives, unlike nearly all others: {}",
            block_of(info, first)
        ));
    }
    if let (Some(far), Some(worst)) = (habit.far(), m.farthest().first())
        && usize::from(worst.distance) >= far
    {
        let codes = m.distances().0[far..].iter().sum();
        let some = plural(codes, "weight is", "weights are");
        return Some(format!(
            "{some} far from the nearest value on the own block's grid, most of all (by {} steps) in {}",
            worst.distance,
            block_of(info, worst)
        ));
    }
    let limit = if habit.mostly_exact() {
        BLOCK_SLACK_MOSTLY
    } else {
        let slack = if info.format.scalar.is_some() { BLOCK_SLACK } else { BLOCK_SLACK_CODEBOOK };
        slack.max(BLOCK_OUTLIER * m.quantile(0.99))
    };
    let damaged = m.above(limit);
    (damaged > 0 && first.score >= limit).then(|| {
        format!(
            "{} errors that quantization does not make, most of all {}: {:.2e}, where plain quantization makes {:.2e}",
            plural(damaged, "block has", "blocks have"),
            block_of(info, first),
            first.error,
            first.plain
        )
    })
}

/// Floats are rounded, nothing else: each one that differs is damaged, unless so many do that somebody rounds otherwise.
fn floats(m: &Measure, pair: &Pair<'_>, findings: &mut Findings) -> Verdict {
    let info = pair.info;
    let place = format!("tensor {}", info.name);
    let differing = m.blocks - m.exact;
    let worst = m.worst().first().map_or((0.0, String::new()), |w| (w.score, block_of(info, w)));
    // What is computed from the configuration (rotary factors) may come from other arithmetic.
    let computed = pair.tensor.source_bytes == 0;
    let many = differing >= ROUNDED.1 && differing as f64 >= ROUNDED.0 * m.blocks as f64;
    if worst.0 <= 1.0 && (many || computed) {
        let what = format!("{differing} of {} weights are rounded otherwise than to nearest even", m.blocks);
        findings.note(place, what);
        return Verdict::Plausible;
    }
    let weights = if differing == 1 { "weight is" } else { "weights are" };
    let what = format!(
        "{differing} {weights} not the source's, rounded to {}; the worst is {}, off by {:.2e}",
        info.format.name, worst.1, m.max_error
    );
    findings.problem(place, what);
    Verdict::Wrong
}

fn block_of(info: &TensorInfo, suspect: &Suspect) -> String {
    let per_row = info.shape.cols() / info.format.block_weights;
    block_place(info, suspect.row * per_row + suspect.block)
}
