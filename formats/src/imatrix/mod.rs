//! Importance matrices: how large the inputs of each weight matrix were over a calibration text, column by column.
//!
//! llama-imatrix writes them in two forms, and both are read and written here:
//!
//! - **GGUF** (`general.type = imatrix`): for each matrix `NAME.in_sum2`, the sums of the squared inputs per column, and
//!   `NAME.counts`, the number of inputs; stacks of experts have one row of sums and one count per expert. The text files,
//!   the number of chunks and the tokens of a chunk stand in `imatrix.datasets`, `imatrix.chunk_count`, `imatrix.chunk_size`.
//! - **legacy** (`.dat`): a plain list of names with, per column, the mean times the number of chunks, and that number; at
//!   the end the number of chunks again and the text file. Little-endian, no magic. Experts that were never visited are
//!   indistinguishable from others.
//!
//! Importance is the mean square ([`Entry::means`]), with the same single-precision divisions as in llama-quantize, so that
//! the same bytes follow. Numbers are finite and not negative: checked here, trusted behind.

mod read;
mod write;

use crate::{Error, Result};
use std::collections::BTreeMap;

/// An importance matrix: entries by the name of the weight (`blk.0.attn_q.weight`), and where they come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imatrix {
    /// In the order of names.
    pub entries: BTreeMap<String, Entry>,
    /// Text files, as they were called when they were used.
    pub datasets: Vec<String>,
    /// Chunks of text that were used. The legacy form may not tell (0).
    pub chunk_count: u32,
    /// Tokens of a chunk; 0 in the legacy form, which counts in chunks.
    pub chunk_size: u32,
    /// Tensors of the file that are neither sums nor counts; they mean nothing here.
    pub ignored: Vec<String>,
}

/// What is known of one weight matrix, or of a stack of matrices.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    sums: Vec<f32>,   // (counts.len(), columns)
    counts: Vec<u64>, // tokens, or chunks where `chunk_size` is 0
}

/// Importance of columns of which nothing is known: all the same.
const UNKNOWN: f32 = 1.0;

impl Entry {
    /// Sums of squares, one row per count, and how many inputs each row sums up. The error is a phrase to be put behind the
    /// entry's name.
    pub fn new(sums: Vec<f32>, counts: Vec<u64>) -> Result<Self, String> {
        if sums.is_empty() || counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(format!("has {} sums for {} counts", sums.len(), counts.len()));
        }
        if let Some(i) = sums.iter().position(|x| !x.is_finite() || *x < 0.0) {
            return Err(format!("holds {} at index {i}, where a sum of squares is needed", sums[i]));
        }
        Ok(Entry { sums, counts })
    }

    /// Sums of squares: `(counts().len(), columns())`.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// Inputs that were summed up, per matrix; one number for all where the file has no more.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Sums per count. In the legacy form a whole stack of experts has one count.
    pub fn columns(&self) -> usize {
        self.sums.len() / self.counts.len()
    }

    /// Matrices (experts) of the stack that were never used.
    pub fn unvisited(&self) -> impl Iterator<Item = usize> {
        self.counts.iter().enumerate().filter(|(_, n)| **n == 0).map(|(i, _)| i)
    }

    /// Mean squares: the importance that llama-quantize uses. Matrices that were never used have 1 throughout.
    pub fn means(&self) -> Vec<f32> {
        let row = |(sums, &count): (&[f32], &u64)| {
            let count = count as f32;
            sums.iter().map(|s| if count > 0.0 { s / count } else { UNKNOWN }).collect::<Vec<f32>>()
        };
        self.sums.chunks_exact(self.columns()).zip(&self.counts).flat_map(row).collect()
    }

    /// Adds what was seen elsewhere. The error is a phrase to be put behind the entry's name.
    fn add(&mut self, other: &Entry) -> Result<(), String> {
        if self.sums.len() != other.sums.len() {
            return Err(format!("has {} sums here and {} there", self.sums.len(), other.sums.len()));
        }
        let n = self.counts.len().max(other.counts.len());
        if [self.counts.len(), other.counts.len()].iter().any(|&m| m != n && m != 1) {
            return Err(format!("has {} counts here and {} there", self.counts.len(), other.counts.len()));
        }
        // One count for all stands for the same count of each.
        let at = |counts: &[u64], i: usize| if counts.len() == 1 { counts[0] } else { counts[i] };
        let counts = (0..n).map(|i| at(&self.counts, i).saturating_add(at(&other.counts, i))).collect();
        let sums = self.sums.iter().zip(&other.sums).map(|(a, b)| a + b).collect();
        *self = Entry::new(sums, counts)?;
        Ok(())
    }
}

impl Imatrix {
    /// It was read from the legacy form: counts are chunks, not tokens.
    pub fn is_legacy(&self) -> bool {
        self.chunk_size == 0
    }

    /// Turns the legacy form's numbers into sums over tokens, if they are not that already: a chunk had `chunk_size` tokens.
    /// Errors: `chunk_size` is 0; numbers that overflow.
    pub fn count_tokens(&mut self, chunk_size: u32) -> Result<()> {
        if !self.is_legacy() {
            return Ok(());
        }
        if chunk_size == 0 {
            return Err(Error::caller("a chunk of 0 tokens says nothing; give the number of tokens of a chunk"));
        }
        for (name, entry) in &mut self.entries {
            let sums = entry.sums.iter().map(|s| s * chunk_size as f32).collect();
            // Without a number of chunks, llama-quantize takes the sums for the means themselves.
            let chunks = entry.counts.iter().map(|n| (*n).max(1).saturating_mul(chunk_size.into())).collect();
            *entry = Entry::new(sums, chunks).map_err(|what| Error::caller(format!("entry {name} {what}")))?;
        }
        self.chunk_size = chunk_size;
        self.chunk_count = self.chunks_seen();
        Ok(())
    }

    /// Adds another matrix, made from another text with the same model. The chunk size stays this one's.
    ///
    /// Errors: one of them is legacy ([`Imatrix::count_tokens`] goes first), or an entry has other sizes in the other: of
    /// another model.
    pub fn add(&mut self, other: &Imatrix) -> Result<()> {
        if self.is_legacy() || other.is_legacy() {
            return Err(Error::caller("matrices that count in chunks of unknown size cannot be added"));
        }
        for (name, entry) in &other.entries {
            match self.entries.get_mut(name) {
                Some(mine) => mine.add(entry).map_err(|what| {
                    Error::caller(format!("entry {name} {what}: the matrices are of different models"))
                })?,
                None => drop(self.entries.insert(name.clone(), entry.clone())),
            }
        }
        self.datasets.extend_from_slice(&other.datasets);
        self.chunk_count = self.chunks_seen();
        Ok(())
    }

    /// Chunks by the largest count, as llama-imatrix tells them.
    pub fn chunks_seen(&self) -> u32 {
        let most = self.entries.values().flat_map(|e| &e.counts).max().copied().unwrap_or(0);
        u32::try_from(most / u64::from(self.chunk_size.max(1))).unwrap_or(u32::MAX)
    }
}
