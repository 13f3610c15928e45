//! Tensors as they are, from one set of files to another.

use super::{Extent, Layout};
use crate::output::{self, OutputSet, Start};
use crate::provenance::{PREFIX, Stamp};
use crate::ui::Ui;
use anyhow::Result;
use qconv_formats::gguf::{Gguf, Metadata, TensorEntry, split};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Bytes that one thread copies at a time.
const PIECE: usize = 4 << 20;

/// What was written.
#[derive(Debug, serde::Serialize)]
pub struct Copied {
    /// The files, in order.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// Tensors in them.
    pub tensors: usize,
}

/// Copies a model into other files: `path` itself, or parts that are called after it. Keys and tensors stay as they are, but
/// for the keys that number parts; recorded digests go with their tensors. On any error nothing is left at the destination.
pub fn copy(source: &Gguf, extent: Extent, path: &Path, force: bool, ui: &Ui) -> Result<Copied> {
    let mut metadata: Metadata = source.metadata().clone();
    split::remove_keys(&mut metadata);
    let entry = |t: &qconv_formats::gguf::TensorInfo| TensorEntry {
        name: t.name.clone(),
        shape: t.shape.clone(),
        format: t.format,
    };
    let entries: Vec<TensorEntry> = source.tensors().iter().map(entry).collect();
    let stamp = Stamp::of(source)?;
    if stamp.is_some() {
        let own: Vec<String> = metadata.iter().map(|(k, _)| k.to_owned()).filter(|k| k.starts_with(PREFIX)).collect();
        own.iter().for_each(|key| drop(metadata.remove(key)));
    }
    let tensors = entries.len();
    let layout = Layout::new(&metadata, entries, extent, path, stamp.as_ref().map(|(s, _)| s), ui)?;
    let sealed = stamp.map(|(stamp, digests)| {
        let digest = |i: usize| digests.get(&source.tensors()[i].name).copied();
        layout.seal(&stamp, |i| digest(i).ok_or_else(|| anyhow::anyhow!("tensor {i} has no digest (a fault of qconv)")))
    });
    let sealed = sealed.transpose()?;
    let inputs: Vec<&Path> = source.files().iter().map(|f| f.map().path()).collect();
    layout.written().iter().try_for_each(|part| output::protect(&part.path, &inputs))?;
    ui.refuse_warnings()?;

    let set = OutputSet::create(&layout.files(), Start { force, ..Start::default() })?;
    for (i, (part, file)) in layout.written().iter().zip(set.files()).enumerate() {
        file.write_at(0, sealed.as_ref().map_or(&part.writer, |all| &all[i]).head())?;
    }
    let bar = ui.bytes_bar(source.tensors().iter().map(|t| t.range.len() as u64).sum());
    for (i, tensor) in source.tensors().iter().enumerate() {
        let (file, range) = layout.place(i);
        source.bytes(tensor).par_chunks(PIECE).enumerate().try_for_each(|(k, bytes)| {
            set.files()[file].write_at(range.start + (k * PIECE) as u64, bytes)?;
            bar.inc(bytes.len() as u64);
            anyhow::Ok(())
        })?;
        source.forget(tensor, 0..tensor.range.len());
    }
    bar.finish_and_clear();
    set.finish()?;
    let files = layout.written().iter().map(|p| p.path.clone()).collect();
    Ok(Copied { files, bytes: layout.bytes(), tensors })
}
