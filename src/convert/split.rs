//! Where a model is cut into several files.

use crate::error::caller;
use crate::ui::{self, Ui};
use anyhow::Result;
use qconv_formats::gguf::{DEFAULT_ALIGNMENT, TensorEntry};
use std::ops::Range;

/// How a model is cut; tensors stay whole and in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// As few files as hold at most so many bytes of tensors each, as llama.cpp's gguf-split does.
    MaxSize(u64),
    /// So many tensors in each file but the last, as gguf-split does.
    MaxTensors(usize),
    /// So many files of about the same size.
    Parts(usize),
}

/// More files than the keys can count.
const MOST: usize = u16::MAX as usize;

impl Split {
    /// The tensors of each file. Deterministic: depends on sizes and order alone. Warns where a tensor alone is more than
    /// a file may hold.
    pub fn cut(self, tensors: &[TensorEntry], ui: &Ui) -> Result<Vec<Range<usize>>> {
        let size = |t: &TensorEntry| {
            let row = t.format.row_bytes(t.shape.cols()).unwrap_or(0) as u64;
            (row * t.shape.rows() as u64).next_multiple_of(DEFAULT_ALIGNMENT as u64)
        };
        let sizes: Vec<u64> = tensors.iter().map(size).collect();
        let cut = match self {
            Split::MaxSize(most) => {
                if let Some(i) = sizes.iter().position(|&size| size > most) {
                    let (name, size) = (&tensors[i].name, ui::bytes(sizes[i]));
                    ui.warn(format!(
                        "--split-max-size: {name} alone has {size}; its file will be larger than asked for"
                    ));
                }
                by_size(&sizes, most)
            }
            Split::MaxTensors(most) => by_count(sizes.len(), most),
            Split::Parts(parts) if parts > sizes.len() || parts == 0 => {
                return Err(caller(format!("{} tensors cannot be split into {parts} files", sizes.len())));
            }
            Split::Parts(parts) => balanced(&sizes, parts),
        };
        if cut.len() > MOST {
            return Err(caller(format!("{} files are more than a split model may have ({MOST})", cut.len())));
        }
        Ok(cut)
    }
}

/// A tensor that is larger than a file may be gets one of its own.
fn by_size(sizes: &[u64], most: u64) -> Vec<Range<usize>> {
    let (mut cut, mut start, mut sum) = (Vec::new(), 0, 0u64);
    for (i, &size) in sizes.iter().enumerate() {
        if i > start && sum.saturating_add(size) > most {
            cut.push(start..i);
            (start, sum) = (i, 0);
        }
        sum += size;
    }
    cut.push(start..sizes.len());
    cut
}

fn by_count(tensors: usize, most: usize) -> Vec<Range<usize>> {
    let most = most.max(1);
    let starts = (0..tensors.max(1)).step_by(most);
    starts.map(|start| start..tensors.min(start + most)).collect()
}

/// The k-th cut is where the sum comes nearest to k parts, but no file is empty.
fn balanced(sizes: &[u64], parts: usize) -> Vec<Range<usize>> {
    let total: u128 = sizes.iter().map(|&s| u128::from(s)).sum();
    let (mut cut, mut start, mut sum) = (Vec::new(), 0, 0u128);
    for k in 1..parts {
        let last = sizes.len() - (parts - k); // each later file gets at least one tensor
        let mut end = start + 1;
        sum += u128::from(sizes[start]);
        let away = |sum: u128| (sum * parts as u128).abs_diff(total * k as u128);
        while end < last && away(sum + u128::from(sizes[end])) <= away(sum) {
            sum += u128::from(sizes[end]);
            end += 1;
        }
        cut.push(start..end);
        start = end;
    }
    cut.push(start..sizes.len());
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_hold_every_tensor_once_and_none_is_empty() {
        let sizes = [32, 4096, 32, 32, 96, 64, 1024, 32];
        let sizes: Vec<u64> = sizes.repeat(3);
        for cut in [
            by_size(&sizes, 1),
            by_size(&sizes, 4128),
            by_size(&sizes, u64::MAX),
            by_count(sizes.len(), 1),
            by_count(sizes.len(), 5),
        ]
        .into_iter()
        .chain((1..=sizes.len()).map(|parts| balanced(&sizes, parts)))
        {
            let all: Vec<usize> = cut.iter().cloned().flatten().collect();
            assert!(all.into_iter().eq(0..sizes.len()) && cut.iter().all(|r| !r.is_empty()), "{cut:?}");
        }
        assert_eq!(by_size(&sizes, u64::MAX).len(), 1);
        assert!((1..=sizes.len()).all(|parts| balanced(&sizes, parts).len() == parts));
    }

    #[test]
    fn balanced_parts_are_balanced() {
        let cut = balanced(&[10; 12], 4);
        assert!(cut.iter().all(|r| r.len() == 3), "{cut:?}");
        let sizes: Vec<u64> = (0..200).map(|i| 1000 + i * 37 % 501).collect();
        let sums: Vec<u64> = balanced(&sizes, 7).into_iter().map(|r| sizes[r].iter().sum()).collect();
        let mean = sizes.iter().sum::<u64>() / 7;
        assert!(sums.iter().all(|s| s.abs_diff(mean) < 1600), "{sums:?} around {mean}");
    }
}
