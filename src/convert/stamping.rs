//! Digests, while the conversion goes on.

use super::meter::{Meter, Stage};
use super::{Extent, Layout, Split};
use crate::error::malformed;
use crate::general;
use crate::model::{Model, Origin};
use crate::provenance::{self, Digest, Record, SourceFile, Stamp, TensorHashes};
use anyhow::{Result, anyhow};
use qconv_formats::gguf::Writer;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a conversion records about itself.
pub struct Stamping<'a> {
    /// The record, with zeros for digests that are not yet known.
    pub stamp: Stamp,
    /// The source files.
    pub sources: Vec<SourceFile>,
    record: &'a Record,
}

impl<'a> Stamping<'a> {
    /// Looks at the source files. Where parts may be made alone, nobody reads all weights: their headers stand for them.
    pub fn new(model: &Model, record: &'a Record, extent: Extent) -> Result<Self> {
        let header_only = matches!(extent, Extent::Part { .. } | Extent::Split(Split::Parts(_)));
        let sources = provenance::files_of(model, header_only);
        let folder = match model.origin() {
            Origin::Checkpoint(checkpoint) => Some(general::folder_name(checkpoint.folder())?),
            Origin::Gguf(_) => None,
        };
        let stamp = Stamp::new(record, folder.as_deref(), &sources)?;
        Ok(Stamping { stamp, record, sources })
    }

    /// Hashes the source beside `work`, which hashes tensors. Returns the heads with all digests.
    pub fn during(
        &mut self,
        layout: &Layout,
        hashes: &TensorHashes,
        meter: &Meter,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<Writer>> {
        let stop = AtomicBool::new(false);
        let sources = &self.sources;
        // Only the first file says what the source was.
        let wanted = layout.tensors().start == 0;
        let digests: Result<Vec<Digest>> = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (stop, mut lap) = (|| stop.load(Ordering::Relaxed), meter.start());
                let digests = sources.iter().filter(|_| wanted).map(|s| s.hash(&stop));
                let digests = digests.collect::<Result<Vec<Digest>>>();
                lap.was(Stage::Hashing);
                digests
            });
            let done = work();
            stop.store(done.is_err(), Ordering::Relaxed);
            let digests =
                reader.join().unwrap_or_else(|_| Err(anyhow!("hashing the source failed (a fault of qconv)")));
            done.and(digests)
        });
        if wanted {
            let lines: Vec<String> =
                self.sources.iter().zip(digests?).map(|(s, d)| provenance::line(&d, &s.shown)).collect();
            if let Some((file, expected)) = &self.record.expected {
                same_source(file, expected, &lines)?;
            }
            self.stamp.set_sources(lines);
        } else {
            digests?;
        }
        layout
            .seal(&self.stamp, |i| hashes.get(i).ok_or_else(|| anyhow!("tensor {i} was not hashed (a fault of qconv)")))
    }
}

/// An error that names the files that are not those of a recipe.
fn same_source(file: &Path, expected: &[String], found: &[String]) -> Result<()> {
    let name = |line: &String| line.split_once("  ").map_or("", |(_, name)| name).to_owned();
    let missing = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).map(name).collect::<Vec<_>>();
    let mut odd = missing(expected, found);
    odd.extend(missing(found, expected).into_iter().filter(|n| !odd.contains(n)).collect::<Vec<_>>());
    if odd.is_empty() {
        return Ok(());
    }
    let what = format!("was made from another source: its digests of {} are not this source's", odd.join(", "));
    Err(malformed(file, "key qconv.source.sha256", what))
}
