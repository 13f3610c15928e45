//! What an interrupted conversion has done: a file beside the temporary one, with a line for each tensor that is whole.
//!
//! `qconv-journal 1 FINGERPRINT`, then `DIGEST  NUMBER` lines. The fingerprint is that of source, recipe and layout; a digest is
//! compared with what lies in the temporary file before it counts, so that a line that reached the disk before its data
//! (a power failure) does no harm.

use super::{Layout, Plan};
use crate::output::{OutputFile, part_of};
use crate::provenance::{self, Digest, SourceFile, hex};
use anyhow::{Context as _, Result};
use qconv_formats::Error;
use qconv_formats::gguf::Gguf;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Bytes that are read back at a time.
const PIECE: usize = 1 << 20;

/// Where the journal of an output lies.
pub fn path_of(first: &Path) -> PathBuf {
    let mut name = part_of(first).into_os_string();
    name.push(".journal");
    name.into()
}

/// What has to be the same for a run to go on with another's work.
pub fn fingerprint(plan: &Plan, layout: &Layout, stamp: &str, sources: &[SourceFile]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(stamp);
    // Importance that is collected anew could be another's in its last digits.
    let importance = plan.tensors.iter().filter_map(|p| p.importance.as_ref());
    importance.for_each(|all| all.iter().for_each(|x| hash.update(x.to_le_bytes())));
    for source in sources {
        hash.update(source.state()?);
    }
    layout.written().iter().for_each(|part| hash.update(part.writer.head()));
    Ok(hex(&hash.finalize().into()))
}

/// What an earlier run says that it has done; `None` if it was another conversion, or there was none.
pub fn read(path: &Path, fingerprint: &str) -> Option<BTreeMap<usize, String>> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut lines = text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n'));
    if lines.next()? != head(fingerprint) {
        return None;
    }
    Some(lines.filter_map(|l| l.split_once("  ")).filter_map(|(d, i)| Some((i.parse().ok()?, d.to_owned()))).collect())
}

fn head(fingerprint: &str) -> String {
    format!("qconv-journal 1 {fingerprint}")
}

/// Takes files back that a run had moved to their places when it was killed before it had moved all: they are finished again
/// with the others. The first one goes first, since without it there is no model.
///
/// Only what that very conversion wrote is taken: whole, with its fingerprint, and with no temporary file beside it.
pub fn take_back(layout: &Layout, fingerprint: &str) -> Result<()> {
    for part in layout.written() {
        let size = part.path.symlink_metadata().ok().filter(|m| m.is_file()).map(|m| m.len());
        let temporary = part_of(&part.path);
        if size != Some(part.writer.file_size()) || temporary.symlink_metadata().is_ok() {
            continue;
        }
        let file = Gguf::open_alone(&part.path).ok();
        if file.is_some_and(|f| provenance::fingerprint_of(f.metadata()) == Some(fingerprint)) {
            std::fs::rename(&part.path, &temporary).map_err(Error::io(&part.path))?;
        }
    }
    Ok(())
}

/// Keeps those tensors whose data have the digest that the journal says.
pub fn proved(layout: &Layout, files: &[OutputFile], said: BTreeMap<usize, String>) -> BTreeMap<usize, Digest> {
    let said: Vec<_> = said.into_iter().filter(|(i, _)| layout.tensors().contains(i)).collect();
    let check = |(tensor, digest): (usize, String)| {
        let (file, range) = layout.place(tensor);
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; PIECE]);
        let mut at = range.start;
        while at < range.end {
            let n = PIECE.min((range.end - at) as usize);
            files[file].read_at(at, &mut buffer[..n]).ok()?;
            hash.update(&buffer[..n]);
            at += n as u64;
        }
        let found: Digest = hash.finalize().into();
        (hex(&found) == digest).then_some((tensor, found))
    };
    said.into_par_iter().filter_map(check).collect()
}

/// The journal of this run.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Begins it with what is done already.
    pub fn create(path: &Path, fingerprint: &str, done: &BTreeMap<usize, Digest>) -> Result<Self> {
        let file =
            File::create(path).map_err(Error::io(path)).context("cannot create the journal of the conversion")?;
        let journal = Journal { path: path.to_owned(), file };
        journal.write(&head(fingerprint))?;
        done.iter().try_for_each(|(tensor, digest)| journal.done(*tensor, digest))?;
        Ok(journal)
    }

    /// A tensor's data are all written.
    pub fn done(&self, tensor: usize, digest: &Digest) -> Result<()> {
        self.write(&format!("{}  {tensor}", hex(digest)))
    }

    /// One write, so that lines of several threads do not mix.
    fn write(&self, line: &str) -> Result<()> {
        let written = (&self.file).write_all(format!("{line}\n").as_bytes()).map_err(Error::io(&self.path));
        written.context("cannot note what is converted already; a disk that is full needs room first")
    }
}
