//! What an importance matrix tells about each tensor: llama-imatrix's `--show-statistics`, summed in f64.

use qconv_formats::imatrix::{Entry, Imatrix};
use serde::Serialize;

/// Importance up to this is as good as none.
const INACTIVE: f32 = 1e-5;

/// Statistics over the importance (mean squared input) of a tensor's columns. Experts that were never visited are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorStatistics {
    /// GGUF name of the weight.
    pub tensor: String,
    /// Columns, all experts together.
    pub columns: usize,
    /// Inputs seen: tokens (chunks in the legacy form); of all experts together.
    pub inputs: u64,
    /// Experts, 1 for a plain matrix.
    pub matrices: usize,
    /// Experts that were never visited.
    pub unvisited: usize,
    /// Columns that were exactly zero throughout.
    pub zero_columns: usize,
    /// Sum.
    pub sum: f64,
    /// Least.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// Share of columns above 1e-5, from 0 to 1.
    pub active: f64,
    /// Entropy of the columns' shares of the sum, in bits.
    pub entropy: f64,
    /// Entropy over the largest possible, from 0 to 1: 1 if all columns matter alike.
    pub entropy_share: f64,
    /// Share of columns more than a standard deviation above the mean, from 0 to 1 (the ZD score of arXiv:2406.17415).
    pub zd: f64,
    /// Cosine to the same tensor of the layer before, by its sums; `None` for the first.
    pub cosine: Option<f64>,
}

/// Statistics of all entries that have any data, in the order of a model's tensors.
pub fn statistics(matrix: &Imatrix) -> Vec<TensorStatistics> {
    let mut all: Vec<TensorStatistics> =
        matrix.entries.iter().filter_map(|(name, entry)| of(matrix, name, entry)).collect();
    all.sort_by(|a, b| crate::recipe::canonical_order(&a.tensor, &b.tensor));
    all
}

fn of(matrix: &Imatrix, name: &str, entry: &Entry) -> Option<TensorStatistics> {
    let means = entry.means();
    let visited = means.chunks_exact(entry.columns()).zip(entry.counts()).filter(|(_, n)| **n > 0);
    let values: Vec<f64> = visited.flat_map(|(row, _)| row).map(|x| f64::from(*x)).collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let sum: f64 = values.iter().sum();
    let mean = sum / n;
    let std = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    let share = |what: &dyn Fn(f64) -> bool| values.iter().filter(|x| what(**x)).count() as f64 / n;
    let shares = values.iter().map(|x| x / sum).filter(|p| *p > 0.0);
    let entropy = shares.map(|p| -p * p.log2()).sum::<f64>();
    Some(TensorStatistics {
        tensor: name.to_owned(),
        columns: values.len(),
        inputs: entry.counts().iter().sum(),
        matrices: entry.counts().len(),
        unvisited: entry.unvisited().count(),
        zero_columns: values.iter().filter(|x| **x == 0.0).count(),
        sum,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(0.0, f64::max),
        mean,
        std,
        active: share(&|x| x > f64::from(INACTIVE)),
        entropy,
        entropy_share: if values.len() > 1 { entropy / n.log2() } else { 0.0 },
        zd: if std > 0.0 { share(&|x| (x - mean) / std > 1.0) } else { 0.0 },
        cosine: before(name).and_then(|name| cosine(entry, matrix.entries.get(&name)?)),
    })
}

/// The same tensor of the layer before.
fn before(name: &str) -> Option<String> {
    let (head, rest) = name.split_once("blk.")?;
    let (layer, rest) = rest.split_once('.')?;
    let layer = layer.parse::<usize>().ok()?.checked_sub(1)?;
    Some(format!("{head}blk.{layer}.{rest}"))
}

fn cosine(a: &Entry, b: &Entry) -> Option<f64> {
    let (a, b) = (a.sums(), b.sums());
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    (a.len() == b.len() && lengths > 0.0).then(|| dot(a, b) / lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(entries: &[(&str, &[f32], &[u64])]) -> Imatrix {
        let mut matrix = Imatrix { chunk_size: 8, ..Imatrix::default() };
        for (name, sums, counts) in entries {
            matrix.entries.insert((*name).to_owned(), Entry::new(sums.to_vec(), counts.to_vec()).unwrap());
        }
        matrix
    }

    #[test]
    fn figures_are_over_means_of_visited_experts() {
        let all = statistics(&matrix(&[
            ("blk.10.ffn_up_exps.weight", &[8.0, 0.0, 5.0, 5.0, 16.0, 16.0], &[8, 0, 16]),
            ("blk.9.ffn_up_exps.weight", &[8.0, 0.0, 5.0, 5.0, 16.0, 16.0], &[8, 1, 16]),
            ("blk.2.none.weight", &[1.0], &[0]),
        ]));
        assert_eq!(all.len(), 2, "an entry without data has no statistics");
        let s = &all[1];
        assert_eq!(s.tensor, "blk.10.ffn_up_exps.weight");
        assert_eq!((s.columns, s.inputs, s.matrices, s.unvisited, s.zero_columns), (4, 24, 3, 1, 1));
        assert_eq!((s.sum, s.min, s.max, s.mean, s.active), (3.0, 0.0, 1.0, 0.75, 0.75));
        assert!((s.entropy - 3f64.log2()).abs() < 1e-12 && (s.entropy_share - s.entropy / 2.0).abs() < 1e-12);
        assert!((s.std - 0.1875f64.sqrt()).abs() < 1e-12 && s.zd == 0.0);
        assert!((s.cosine.unwrap() - 1.0).abs() < 1e-12 && all[0].cosine.is_none());
    }

    #[test]
    fn zeros_throughout_give_no_nan() {
        let all = statistics(&matrix(&[("blk.0.a.weight", &[0.0; 4], &[3]), ("blk.1.a.weight", &[0.0; 4], &[3])]));
        for s in &all {
            assert_eq!((s.sum, s.entropy, s.zd, s.active, s.cosine), (0.0, 0.0, 0.0, 0.0, None));
        }
    }
}
