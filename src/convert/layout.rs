//! Where everything goes: one file, or the files of a split model.

use super::Split;
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::gguf::{Metadata, TensorEntry, Writer, split};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is written of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// One file.
    #[default]
    Whole,
    /// Several files.
    Split(Split),
    /// One of several files of about the same size, by number from 0.
    Part {
        /// Which one.
        no: usize,
        /// Of how many.
        count: usize,
    },
}

/// The files of an output, laid out.
#[derive(Debug)]
pub struct Layout {
    parts: Vec<Part>,
    /// The parts that are written.
    written: Range<usize>,
}

/// A file of an output.
#[derive(Debug)]
pub struct Part {
    /// Where it appears.
    pub path: PathBuf,
    /// The tensors in it, by their number in the whole model.
    pub tensors: Range<usize>,
    /// Its layout.
    pub writer: Writer,
}

impl Layout {
    /// Lays out tensors in the order given. Parts of a split model are called after `path`, without its `.gguf`.
    pub fn new(metadata: &Metadata, tensors: &[TensorEntry], extent: Extent, path: &Path, ui: &Ui) -> Result<Self> {
        let cut = match extent {
            Extent::Whole => {
                let writer = Writer::new(metadata, tensors)?;
                let part = Part { path: path.to_owned(), tensors: 0..tensors.len(), writer };
                return Ok(Layout { parts: vec![part], written: 0..1 });
            }
            Extent::Split(split) => split.cut(tensors, ui)?,
            Extent::Part { count, .. } => Split::Parts(count).cut(tensors, ui)?,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let prefix = name.strip_suffix(".gguf").unwrap_or(&name);
        let count = cut.len();
        let mut parts = Vec::with_capacity(count);
        for (i, range) in cut.into_iter().enumerate() {
            let mut keys = if i == 0 { metadata.clone() } else { Metadata::new() };
            split::set_keys(&mut keys, i, count, tensors.len());
            let path = path.with_file_name(split::file_name(prefix, i, count));
            parts.push(Part { path, writer: Writer::new(&keys, &tensors[range.clone()])?, tensors: range });
        }
        let written = match extent {
            Extent::Part { no, .. } => no..no + 1,
            _ => 0..count,
        };
        Ok(Layout { parts, written })
    }

    /// The files that are written.
    pub fn written(&self) -> &[Part] {
        &self.parts[self.written.clone()]
    }

    /// The model is in several files.
    pub fn is_split(&self) -> bool {
        self.parts.len() > 1
    }

    /// All its files are written.
    pub fn is_complete(&self) -> bool {
        self.written.len() == self.parts.len()
    }

    /// The tensors that are written.
    pub fn tensors(&self) -> Range<usize> {
        let parts = self.written();
        parts.first().map_or(0, |p| p.tensors.start)..parts.last().map_or(0, |p| p.tensors.end)
    }

    /// Which of the written files a tensor goes to, and where in it. Panics for tensors that are not written.
    pub fn place(&self, tensor: usize) -> (usize, Range<u64>) {
        let parts = self.written();
        let at = parts.partition_point(|p| p.tensors.end <= tensor);
        (at, parts[at].writer.range(tensor - parts[at].tensors.start))
    }

    /// Paths and sizes of the files that are written.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.written().iter().map(|p| (p.path.clone(), p.writer.file_size())).collect()
    }

    /// Bytes of the files that are written.
    pub fn bytes(&self) -> u64 {
        self.written().iter().map(|p| p.writer.file_size()).sum()
    }
}
