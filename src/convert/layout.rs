//! Where everything goes: one file, or the files of a split model.

use super::Split;
use crate::provenance::{Digest, Stamp};
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
    entries: Vec<TensorEntry>,
}

/// A file of an output.
#[derive(Debug)]
pub struct Part {
    /// Where it appears.
    pub path: PathBuf,
    /// The tensors in it, by their number in the whole model.
    pub tensors: Range<usize>,
    /// Its layout; the places of digests hold zeros.
    pub writer: Writer,
    keys: Metadata,
}

impl Layout {
    /// Lays out tensors in the order given. Parts of a split model are called after `path`, without its `.gguf`. With a
    /// stamp, there are places for it.
    pub fn new(
        metadata: &Metadata,
        tensors: Vec<TensorEntry>,
        extent: Extent,
        path: &Path,
        stamp: Option<&Stamp>,
        ui: &Ui,
    ) -> Result<Self> {
        let lay = |keys: Metadata, range: Range<usize>, path: PathBuf| {
            let entries = &tensors[range.clone()];
            let writer = match stamp {
                Some(stamp) => stamp.seal(&keys, range.start == 0, entries, |_| [0; 32])?,
                None => Writer::new(&keys, entries)?,
            };
            anyhow::Ok(Part { path, tensors: range, writer, keys })
        };
        let cut = match extent {
            Extent::Whole => {
                let part = lay(metadata.clone(), 0..tensors.len(), path.to_owned())?;
                return Ok(Layout { parts: vec![part], written: 0..1, entries: tensors });
            }
            Extent::Split(split) => split.cut(&tensors, ui)?,
            Extent::Part { count, .. } => Split::Parts(count).cut(&tensors, ui)?,
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let prefix = name.strip_suffix(".gguf").unwrap_or(&name);
        let count = cut.len();
        let mut parts = Vec::with_capacity(count);
        for (i, range) in cut.into_iter().enumerate() {
            let mut keys = if i == 0 { metadata.clone() } else { Metadata::new() };
            split::set_keys(&mut keys, i, count, tensors.len());
            parts.push(lay(keys, range, path.with_file_name(split::file_name(prefix, i, count)))?);
        }
        let written = match extent {
            Extent::Part { no, .. } => no..no + 1,
            _ => 0..count,
        };
        Ok(Layout { parts, written, entries: tensors })
    }

    /// The heads of the files that are written, with all digests in their places.
    pub fn seal(&self, stamp: &Stamp, digest: impl Fn(usize) -> Result<Digest>) -> Result<Vec<Writer>> {
        let mut sealed = Vec::new();
        for part in self.written() {
            let digests = part.tensors.clone().map(&digest).collect::<Result<Vec<_>>>()?;
            let entries = &self.entries[part.tensors.clone()];
            let writer = stamp.seal(&part.keys, part.tensors.start == 0, entries, |i| digests[i])?;
            let (head, place) = (writer.head().len(), part.writer.head().len());
            anyhow::ensure!(head == place, "the head has {head} bytes, {place} were laid out (a fault of qconv)");
            sealed.push(writer);
        }
        Ok(sealed)
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
