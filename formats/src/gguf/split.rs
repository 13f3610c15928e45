//! Models in several files, as llama.cpp's gguf-split makes them: `NAME-00001-of-00003.gguf` and so on.
//!
//! Every part has the keys [`NO`], [`COUNT`] and [`TENSORS`]; the first has all others too. Each part's tensor table lists its
//! own tensors.

use super::{Gguf, Metadata, Value};
use crate::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Number of the part, from 0.
pub const NO: &str = "split.no";
/// Number of parts.
pub const COUNT: &str = "split.count";
/// Tensors of all parts together.
pub const TENSORS: &str = "split.tensors.count";

/// A part's file name: `file_name("x", 0, 3)` is `x-00001-of-00003.gguf`.
pub fn file_name(prefix: &str, no: usize, count: usize) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1)
}

/// The prefix of a part's file name, if it is the name of that part.
pub fn prefix(name: &str, no: usize, count: usize) -> Option<&str> {
    name.strip_suffix(&file_name("", no, count)).filter(|prefix| !prefix.is_empty())
}

/// Sets a part's keys, in the order in which gguf-split writes them.
pub fn set_keys(metadata: &mut Metadata, no: usize, count: usize, tensors: usize) {
    remove_keys(metadata);
    metadata.set(NO, Value::U16(no as u16));
    metadata.set(TENSORS, Value::I32(tensors as i32));
    metadata.set(COUNT, Value::U16(count as u16));
}

/// Removes them.
pub fn remove_keys(metadata: &mut Metadata) {
    for key in [NO, COUNT, TENSORS] {
        metadata.remove(key);
    }
}

/// A part's number and the number of parts; `None` for a file that is whole.
pub fn place(metadata: &Metadata) -> Option<(u64, u64)> {
    let count = metadata.u64(COUNT).filter(|&n| n > 1)?;
    Some((metadata.u64(NO).unwrap_or(0), count))
}

/// Opens the other parts behind the first.
pub(super) fn open_rest(first: &mut Gguf) -> Result<()> {
    let Some((no, count)) = place(first.metadata()) else { return Ok(()) };
    let path = first.path().to_owned();
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    // The keys are 16-bit numbers.
    let (no, count) = match (u16::try_from(no), u16::try_from(count)) {
        (Ok(no), Ok(count)) if no < count => (usize::from(no), usize::from(count)),
        _ => return Err(Error::malformed(&path, "key split.no", format!("is {no} of {count} parts"))),
    };
    let Some(prefix) = prefix(name, no, count) else {
        let what = format!("says that this is part {} of {count}, which ends in {}", no + 1, file_name("", no, count));
        return Err(Error::malformed(&path, "key split.no", what + "; give the file its name back"));
    };
    if no > 0 {
        let begin = path.with_file_name(file_name(prefix, 0, count));
        return Err(Error::caller(format!(
            "{}: is part {} of {count} of a split model; open the first part, {}",
            path.display(),
            no + 1,
            begin.display()
        )));
    }
    let rest: Vec<PathBuf> = (1..count).map(|i| path.with_file_name(file_name(prefix, i, count))).collect();
    append(first, &rest)
}

/// Appends the parts behind the first and checks that they belong together.
pub(super) fn append(first: &mut Gguf, rest: &[PathBuf]) -> Result<()> {
    let path = first.path().to_owned();
    for (i, part) in rest.iter().enumerate() {
        first.append(open_part(&path, part, i + 1, rest.len() + 1)?);
    }
    if let Some(total) = first.metadata().u64(TENSORS).filter(|&n| n != first.tensors().len() as u64) {
        let found = first.tensors().len();
        return Err(Error::malformed(&path, "key split.tensors.count", format!("is {total}, the parts hold {found}")));
    }
    let mut names = HashSet::new();
    match first.tensors().iter().find(|t| !names.insert(t.name.as_str())) {
        None => Ok(()),
        Some(twice) => {
            let file = first.files()[twice.file].map().path();
            Err(Error::malformed(file, format!("tensor {}", twice.name), "is in another part too"))
        }
    }
}

fn open_part(first: &Path, part: &Path, no: usize, count: usize) -> Result<Gguf> {
    if !part.exists() {
        let what = format!("is missing: {}", part.display());
        return Err(Error::malformed(first, format!("part {} of {count}", no + 1), what));
    }
    let gguf = Gguf::open_alone(part)?;
    let found = place(gguf.metadata());
    if found != Some((no as u64, count as u64)) {
        let what = match found {
            Some((no, count)) => format!("says part {} of {count}", no + 1),
            None => "is missing".to_owned(),
        };
        return Err(Error::malformed(
            part,
            "key split.no",
            format!("{what}, its name says part {} of {count}", no + 1),
        ));
    }
    Ok(gguf)
}
