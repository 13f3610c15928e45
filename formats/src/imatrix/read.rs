//! Reading either form. Every length is checked against the file before anything is allocated for it.

use super::{Entry, Imatrix};
use crate::block::F32;
use crate::cursor::Cursor;
use crate::gguf::{Gguf, TensorInfo};
use crate::{Error, Mapped, Result, limits};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest count that is taken for one: beyond it, single precision cannot tell neighbouring numbers of chunks apart anyway.
const MAX_COUNT: f32 = (1u64 << 53) as f32;

impl Imatrix {
    /// Reads a file of either form. Errors name the entry or key.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if Gguf::is_gguf(path) { from_gguf(&Gguf::open(path)?) } else { from_legacy(&Mapped::open(path)?) }
    }
}

fn from_gguf(gguf: &Gguf) -> Result<Imatrix> {
    let path = gguf.path();
    let mut parts: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
    let mut ignored = Vec::new();
    for tensor in gguf.tensors() {
        if let Some(name) = tensor.name.strip_suffix(".in_sum2") {
            parts.entry(name).or_default()[0] = Some(tensor);
        } else if let Some(name) = tensor.name.strip_suffix(".counts") {
            parts.entry(name).or_default()[1] = Some(tensor);
        } else {
            ignored.push(tensor.name.clone());
        }
    }
    if parts.is_empty() {
        let kind = gguf.metadata().str("general.type").unwrap_or("unknown");
        let what = format!("is {kind:?}, and no tensor's name ends in .in_sum2: this is no importance matrix");
        return Err(Error::malformed(path, "key general.type", what));
    }
    let key = |name: &str| {
        let place = format!("key imatrix.{name}");
        let value = gguf.metadata().get(&format!("imatrix.{name}"));
        value.ok_or_else(|| Error::malformed(path, place, "is missing; llama-imatrix always writes it"))
    };
    let number = |name: &str| {
        let value = key(name)?;
        value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
            Error::malformed(path, format!("key imatrix.{name}"), format!("holds {value:?}, where a number is needed"))
        })
    };
    let datasets = key("datasets")?;
    let datasets =
        datasets.as_strings().ok_or_else(|| Error::malformed(path, "key imatrix.datasets", "is no list of strings"))?;
    let (chunk_count, chunk_size) = (number("chunk_count")?, number("chunk_size")?);
    if chunk_size == 0 {
        return Err(Error::malformed(path, "key imatrix.chunk_size", "is 0: a chunk has tokens"));
    }
    let mut entries = BTreeMap::new();
    for (name, pair) in parts {
        let fail = |what: String| Error::malformed(path, format!("entry {name}"), what);
        let [Some(sums), Some(counts)] = pair else {
            let missing = if pair[0].is_none() { "in_sum2" } else { "counts" };
            return Err(fail(format!("has no tensor {name}.{missing}")));
        };
        let (sums, counts) = (floats(gguf, sums)?, floats(gguf, counts)?);
        let count = |x: &f32| {
            let whole = (0.0..=MAX_COUNT).contains(x).then_some(x.round() as u64);
            whole.ok_or_else(|| fail(format!("holds {x}, where a number of tokens is needed")))
        };
        let counts = counts.iter().map(count).collect::<Result<_>>()?;
        entries.insert(name.to_owned(), Entry::new(sums, counts).map_err(fail)?);
    }
    Ok(Imatrix { entries, datasets: datasets.to_vec(), chunk_count, chunk_size, ignored })
}

fn floats(gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>> {
    if *tensor.format != F32 {
        let what = format!("is {}, where F32 is needed", tensor.format.name);
        return Err(Error::malformed(gguf.path(), format!("tensor {}", tensor.name), what));
    }
    Ok(gguf.bytes(tensor).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn from_legacy(map: &Mapped) -> Result<Imatrix> {
    let mut at = Cursor::new(map.path(), map.bytes());
    let count = at.number("number of entries")?;
    // An entry takes at least a name of one letter and one sum: whatever this file is, it is seen before anything is read.
    if count == 0 || count > limits::MAX_TENSORS || count > at.left() as u64 / 17 {
        let what = format!("{count} entries in {} bytes: this is no importance matrix", map.bytes().len());
        return Err(at.error(0, "number of entries", what));
    }
    let mut entries = BTreeMap::new();
    for i in 0..count {
        let start = at.pos();
        let name = at.short_string(&format!("entry {i}"))?;
        if name.is_empty() || name.len() > limits::MAX_NAME {
            return Err(at.error(start, &format!("entry {i}"), format!("its name has {} bytes", name.len())));
        }
        let place = format!("entry {name}");
        // llama-quantize takes a number of chunks below 1 for "sums are means", which 1 says as well.
        let chunks = at.i32(&place)?.max(1) as u64;
        let n = at.number(&place)?;
        let size = usize::try_from(n).ok().and_then(|n| n.checked_mul(4));
        let size = size.ok_or_else(|| at.error(start, &place, format!("has {n} sums")))?;
        let sums = at.take(size, &place)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let entry = Entry::new(sums, vec![chunks]).map_err(|what| at.error(start, &place, what))?;
        if entries.insert(name, entry).is_some() {
            return Err(at.error(start, &place, "appears twice"));
        }
    }
    // What follows is missing in files from before 2024.
    let mut matrix = Imatrix { entries, ..Imatrix::default() };
    if at.left() > 0 {
        matrix.chunk_count = at.i32("number of chunks")?.max(0) as u32;
        if at.left() > 0 {
            matrix.datasets =
                Some(at.short_string("name of the text")?).filter(|s| !s.is_empty()).into_iter().collect();
        }
        if at.left() > 0 {
            let what = format!("{} bytes behind the end: this is no importance matrix", at.left());
            return Err(at.error(at.pos(), "end", what));
        }
    }
    Ok(matrix)
}

impl Cursor<'_> {
    /// A size or a count.
    fn number(&mut self, place: &str) -> Result<u64> {
        let start = self.pos();
        let n = self.i32(place)?;
        u64::try_from(n).map_err(|_| self.error(start, place, format!("holds {n}, where a size is needed")))
    }

    /// A string behind its length in 32 bits.
    fn short_string(&mut self, place: &str) -> Result<String> {
        let n = self.number(place)? as usize;
        self.text(n, place)
    }
}
