//! One safetensors file: a length, a JSON header, the tensors' bytes one behind the other.
//!
//! Format: <https://huggingface.co/docs/safetensors/index#format>. The header is read here and not by the safetensors
//! crate, so that errors name the tensor and no sum of offsets can overflow.

use crate::{Error, Mapped, Result, Shape, limits};
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A safetensors file with its checked header.
#[derive(Debug)]
pub struct SafetensorsFile {
    map: Arc<Mapped>,
    tensors: Vec<StoredTensor>,
    notes: BTreeMap<String, String>,
}

/// A tensor as a safetensors file stores it.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions as they stand in the header; none for scalars.
    pub dims: Vec<usize>,
    /// Shape; scalars and empty tensors (which safetensors allows) have no [`Shape`].
    pub shape: Option<Shape>,
    /// Bytes of the file.
    pub range: Range<usize>,
}

impl SafetensorsFile {
    /// Maps a file and checks its header: known types, sizes equal to shape times type, bytes that follow one another
    /// without gap or overlap from the header to the end of the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let map = Mapped::open(path)?;
        let (header, start) = header(&map)?;
        let mut seen = HashSet::new();
        let mut tensors = Vec::new();
        for (name, entry) in header.tensors {
            tensors.push(
                check(&name, entry, start)
                    .map_err(|what| Error::malformed(map.path(), format!("tensor {name}"), what))?,
            );
            if !seen.insert(name.clone()) {
                return Err(Error::malformed(map.path(), format!("tensor {name}"), "appears twice in the header"));
            }
        }
        tensors.sort_by(|x, y| (x.range.start, x.range.end, &x.name).cmp(&(y.range.start, y.range.end, &y.name)));
        contiguous(&map, &tensors, start)?;
        Ok(SafetensorsFile { map: Arc::new(map), tensors, notes: header.notes })
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// What the file says about itself (`__metadata__`), such as `format: pt`.
    pub fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// A tensor's bytes.
    pub fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.map.bytes()[tensor.range.clone()]
    }

    /// The file.
    pub fn map(&self) -> &Arc<Mapped> {
        &self.map
    }
}

/// The parsed header and where data begins.
fn header(map: &Mapped) -> Result<(Header, usize)> {
    let fail = |what: String| Error::malformed(map.path(), "safetensors header", what);
    let (bytes, size) = (map.bytes(), map.bytes().len());
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(fail(format!("the file has {size} bytes, a header alone takes 8 and more: it is truncated")));
    };
    let length = u64::from_le_bytes(*length);
    if length > limits::MAX_SAFETENSORS_HEADER || length > rest.len() as u64 {
        return Err(fail(format!(
            "says that it is {length} bytes long in a file of {size}: the file is truncated or no safetensors file"
        )));
    }
    let text = &rest[..length as usize];
    let header = serde_json::from_slice(text).map_err(|e| fail(format!("is no JSON that safetensors allows: {e}")))?;
    Ok((header, 8 + length as usize))
}

/// One entry of the header; the error is a phrase behind the tensor's name.
fn check(name: &str, entry: Entry, start: usize) -> Result<StoredTensor, String> {
    let dtype = Dtype::deserialize(Json::String(entry.dtype.clone()))
        .map_err(|_| format!("has the type {:?}, which this version does not know", entry.dtype))?;
    let [a, b] = entry.data_offsets;
    let weights = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let bits = weights.and_then(|n| n.checked_mul(dtype.bitsize() as u64));
    let Some(bits) = bits else {
        return Err(format!("has more elements than memory can address in {:?}", entry.shape));
    };
    if a > b || !bits.is_multiple_of(8) || b - a != bits / 8 {
        return Err(format!(
            "its bytes {a}..{b} are not the {} that {:?} of {} take",
            bits.div_ceil(8),
            entry.shape,
            entry.dtype
        ));
    }
    let place = |x: u64| usize::try_from(x).ok().and_then(|x| x.checked_add(start));
    let (Some(a), Some(b)) = (place(a), place(b)) else {
        return Err(format!("its bytes {a}..{b} are beyond any file"));
    };
    let dims: Vec<usize> = entry.shape.iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
    let shape = if dims.is_empty() || dims.contains(&0) { None } else { Some(Shape::new(&dims)?) };
    Ok(StoredTensor { name: name.to_owned(), dtype, dims, shape, range: a..b })
}

/// Bytes from the header to the end of the file belong to one tensor each.
fn contiguous(map: &Mapped, tensors: &[StoredTensor], start: usize) -> Result<()> {
    let size = map.bytes().len();
    let mut end = start;
    for t in tensors {
        let fail = |what: String| Err(Error::malformed(map.path(), format!("tensor {}", t.name), what));
        if t.range.end > size {
            return fail(format!("ends at byte {} of a file of {size} bytes: the file is truncated", t.range.end));
        }
        if t.range.start != end {
            let what = if t.range.start < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return fail(format!("begins at byte {} where {end} is expected: it {what}", t.range.start));
        }
        end = t.range.end;
    }
    if end != size {
        let what = format!("{} bytes behind the last tensor belong to none: the header is not this file's", size - end);
        return Err(Error::malformed(map.path(), "safetensors header", what));
    }
    Ok(())
}

/// The header as it stands, in order, duplicates included.
struct Header {
    tensors: Vec<(String, Entry)>,
    notes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), notes: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.notes = map.next_value()?;
                    } else {
                        let entry = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name}: {e}")))?;
                        header.tensors.push((name, entry));
                    }
                }
                Ok(header)
            }
        }
        from.deserialize_map(Entries)
    }
}
