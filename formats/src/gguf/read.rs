//! Reading: every count, length and offset is checked against the file before it is used.

use super::{Array, DEFAULT_ALIGNMENT, MAGIC, Metadata, Value, split};
use crate::block::BlockFormat;
use crate::cursor::Cursor;
use crate::{Error, Mapped, QTensor, Result, Shape, SharedBytes, limits};
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened GGUF file, or a set of files that a model was split into. What is in it has been checked: tensors lie inside
/// their file, do not overlap and are aligned, and their names are unique.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    tensors: Vec<TensorInfo>,
    files: Vec<GgufFile>,
}

/// One of the files that make up a [`Gguf`].
#[derive(Debug)]
pub struct GgufFile {
    map: Arc<Mapped>,
    metadata: Metadata,
    alignment: usize,
    data_start: usize,
    tensors: Range<usize>,
}

/// A tensor of a GGUF file.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Logical shape, outermost dimension first (the reverse of the file's order).
    pub shape: Shape,
    /// How rows are packed.
    pub format: &'static BlockFormat,
    /// The file that it is in, where there are several.
    pub file: usize,
    /// Bytes in that file.
    pub range: Range<usize>,
}

impl Gguf {
    /// Maps and checks a file; a vocabulary without tensors is fine. Where it is the first of a split model's files, all
    /// of them are opened. Errors name the section, key or tensor and the offset, and a part that is missing.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut set = Self::open_alone(path)?;
        split::open_rest(&mut set)?;
        Ok(set)
    }

    /// Opens the parts of a split model under whatever names.
    pub fn open_parts(paths: &[PathBuf]) -> Result<Self> {
        let [first, rest @ ..] = paths else { return Err(Error::caller("no part to open")) };
        let mut set = Self::open_alone(first)?;
        split::append(&mut set, rest)?;
        Ok(set)
    }

    /// Opens one file, whether or not it is a part of a set.
    pub fn open_alone(path: impl AsRef<Path>) -> Result<Self> {
        let map = Mapped::open(path)?;
        let mut at = Cursor::new(map.path(), map.bytes());
        let (version, keys, count) = at.header()?;

        let mut metadata = Metadata::new();
        let mut seen = HashSet::new();
        for i in 0..keys {
            let start = at.pos();
            let key = at.string(&format!("key {i}"))?;
            if key.is_empty() || key.len() > limits::MAX_KEY {
                return Err(at.error(start, &format!("key {i}"), format!("its name has {} bytes", key.len())));
            }
            let place = format!("key {key}");
            if !seen.insert(key.clone()) {
                return Err(at.error(start, &place, "appears twice"));
            }
            let kind = at.u32(&place)?;
            let value = at.value(kind, &place)?;
            metadata.push_unique(key, value);
        }

        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::U32(n)) if n.is_power_of_two() && *n >= 8 && *n <= limits::MAX_ALIGNMENT => *n as usize,
            Some(v) => {
                return Err(Error::malformed(
                    map.path(),
                    "key general.alignment",
                    format!("{v:?} is no power of two from 8"),
                ));
            }
        };

        let mut tensors = Vec::new();
        for i in 0..count {
            tensors.push(at.tensor(i)?);
        }
        let end = at.pos();
        // A file without tensors may end anywhere behind the table.
        let data_start = if count == 0 { end.min(map.bytes().len()) } else { end.div_ceil(alignment) * alignment };
        place_tensors(&mut tensors, data_start, alignment, &map)?;
        let file = GgufFile { map: Arc::new(map), metadata, alignment, data_start, tensors: 0..tensors.len() };
        Ok(Gguf { version, tensors, files: vec![file] })
    }

    /// Puts the next part of a set behind this one; only its tensors count.
    pub(super) fn append(&mut self, part: Gguf) {
        let (file, first) = (self.files.len(), self.tensors.len());
        self.tensors.extend(part.tensors.into_iter().map(|t| TensorInfo { file, ..t }));
        let range = first..self.tensors.len();
        self.files.extend(part.files.into_iter().map(|f| GgufFile { tensors: range.clone(), ..f }));
    }

    /// Whether a file begins with GGUF's magic.
    pub fn is_gguf(path: impl AsRef<Path>) -> bool {
        use std::io::Read;
        let mut magic = [0; 4];
        // A pipe would wait for its other end.
        if !path.as_ref().metadata().is_ok_and(|m| m.is_file()) {
            return false;
        }
        std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && magic == MAGIC
    }

    /// Version in the header (2 or 3).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Keys and values; of a set, those of its first file.
    pub fn metadata(&self) -> &Metadata {
        &self.files[0].metadata
    }

    /// The tensor table in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Finds a tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// A tensor's packed bytes.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.files[tensor.file].map.bytes()[tensor.range.clone()]
    }

    /// A tensor that shares the mapped file's bytes.
    pub fn packed(&self, tensor: &TensorInfo) -> Result<QTensor> {
        let map = self.files[tensor.file].map.clone();
        QTensor::new(tensor.format, tensor.shape.clone(), SharedBytes::new(map, tensor.range.clone()))
    }

    /// Drops the mapped pages of a part of a tensor that will not be read again.
    pub fn forget(&self, tensor: &TensorInfo, bytes: Range<usize>) {
        let start = tensor.range.start;
        self.files[tensor.file].map.forget(start + bytes.start..start + bytes.end);
    }

    /// The files, in order; there is at least one.
    pub fn files(&self) -> &[GgufFile] {
        &self.files
    }

    /// The file, or the first of a set.
    pub fn path(&self) -> &Path {
        self.files[0].map.path()
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|f| f.map.bytes().len() as u64).sum()
    }
}

impl GgufFile {
    /// The file.
    pub fn map(&self) -> &Mapped {
        &self.map
    }

    /// Its own keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Alignment of tensor data.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Where tensor data begins; before it stand header, metadata and tensor table.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Which of the tensors are in it.
    pub fn tensors(&self) -> Range<usize> {
        self.tensors.clone()
    }
}

/// Turns offsets relative to the data section into ranges of the file, and checks bounds, alignment and overlaps.
fn place_tensors(tensors: &mut [TensorInfo], data_start: usize, alignment: usize, map: &Mapped) -> Result<()> {
    let size = map.bytes().len();
    for t in tensors.iter_mut() {
        let place = || format!("tensor {}", t.name);
        if !t.range.start.is_multiple_of(alignment) {
            let what = format!("its offset {} is no multiple of the alignment {alignment}", t.range.start);
            return Err(Error::malformed(map.path(), place(), what));
        }
        let start = t.range.start.checked_add(data_start);
        let end = start.and_then(|s| s.checked_add(t.range.len()));
        match (start, end) {
            (Some(s), Some(e)) if e <= size => t.range = s..e,
            _ => {
                let what = format!(
                    "its {} bytes at offset {} of the data section end behind the file's {size} bytes: the file is truncated or its table is corrupted",
                    t.range.len(),
                    t.range.start
                );
                return Err(Error::malformed(map.path(), place(), what));
            }
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if pair[0].range.end > pair[1].range.start {
            let what = format!("its bytes {:?} overlap {} at {:?}", pair[1].range, pair[0].name, pair[0].range);
            return Err(Error::malformed(map.path(), format!("tensor {}", pair[1].name), what));
        }
    }
    let mut names = HashSet::new();
    match tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        Some(twice) => {
            Err(Error::malformed(map.path(), format!("tensor {}", twice.name), "appears twice in the table"))
        }
        None => Ok(()),
    }
}

impl Cursor<'_> {
    fn header(&mut self) -> Result<(u32, u64, u64)> {
        let magic: [u8; 4] = self.array("magic")?;
        if magic != MAGIC {
            let what =
                format!("begins with {:?}, not with {:?}: no GGUF file", magic.escape_ascii().to_string(), "GGUF");
            return Err(self.error(0, "magic", what));
        }
        let version = self.u32("version")?;
        if version.swap_bytes() == 3 || version.swap_bytes() == 2 {
            return Err(self.error(4, "version", "is big-endian; only little-endian files are supported"));
        }
        if !(2..=3).contains(&version) {
            return Err(self.error(4, "version", format!("is {version}; 2 and 3 are supported")));
        }
        let tensors = self.u64("tensor count")?;
        if tensors > limits::MAX_TENSORS {
            return Err(self.error(
                8,
                "tensor count",
                format!("{tensors} is beyond the limit {}", limits::MAX_TENSORS),
            ));
        }
        let keys = self.u64("key count")?;
        if keys > limits::MAX_KEYS {
            return Err(self.error(16, "key count", format!("{keys} is beyond the limit {}", limits::MAX_KEYS)));
        }
        Ok((version, keys, tensors))
    }

    fn string(&mut self, place: &str) -> Result<String> {
        let start = self.pos();
        let n = self.u64(place)?;
        let n = usize::try_from(n).map_err(|_| self.error(start, place, format!("has a string of {n} bytes")))?;
        self.text(n, place)
    }

    /// The i-th string of an array. Its place is only spelled out when something is wrong: vocabularies are long.
    fn element(&mut self, place: &str, i: usize) -> Result<String> {
        let start = self.pos();
        self.string(place).or_else(|_| {
            self.back_to(start);
            self.string(&format!("{place}[{i}]"))
        })
    }

    fn value(&mut self, kind: u32, place: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(self.array::<1>(place)?[0]),
            1 => Value::I8(i8::from_le_bytes(self.array(place)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(place)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(place)?)),
            4 => Value::U32(self.u32(place)?),
            5 => Value::I32(i32::from_le_bytes(self.array(place)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(place)?)),
            7 => Value::Bool(self.bool(place)?),
            8 => Value::String(self.string(place)?),
            9 => Value::Array(self.typed_array(place, limits::MAX_ARRAY_DEPTH)?),
            10 => Value::U64(self.u64(place)?),
            11 => Value::I64(i64::from_le_bytes(self.array(place)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(place)?)),
            other => return Err(self.error(self.pos() - 4, place, format!("has the unknown value type {other}"))),
        })
    }

    fn bool(&mut self, place: &str) -> Result<bool> {
        match self.array::<1>(place)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(self.pos() - 1, place, format!("holds {other} where a boolean is 0 or 1"))),
        }
    }

    fn typed_array(&mut self, place: &str, depth: usize) -> Result<Array> {
        let start = self.pos();
        let kind = self.u32(place)?;
        let n = self.u64(place)?;
        // Every element takes at least one byte (a string eight, an array twelve): a count beyond the file is refused
        // before anything is allocated for it.
        let least = match kind {
            8 => 8,
            9 => 12,
            _ => 1,
        };
        let left = self.left() as u64;
        if n.checked_mul(least).is_none_or(|need| need > left) {
            return Err(self.error(
                start,
                place,
                format!("is an array of {n} elements, but {left} bytes are left: the file is truncated or corrupted"),
            ));
        }
        if least > 1 && n > limits::MAX_STRINGS {
            let what = format!("is an array of {n} elements, beyond the limit {}", limits::MAX_STRINGS);
            return Err(self.error(start, place, what));
        }
        let n = n as usize;
        Ok(match kind {
            0 => Array::U8(self.take(n, place)?.to_vec()),
            1 => Array::I8(self.numbers(n, place, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(n, place, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(n, place, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(n, place, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(n, place, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(n, place, f32::from_le_bytes)?),
            7 => Array::Bool((0..n).map(|_| self.bool(place)).collect::<Result<_>>()?),
            8 => Array::String((0..n).map(|i| self.element(place, i)).collect::<Result<_>>()?),
            9 if depth > 0 => Array::Array((0..n).map(|_| self.typed_array(place, depth - 1)).collect::<Result<_>>()?),
            9 => return Err(self.error(start, place, "nests arrays too deeply")),
            10 => Array::U64(self.numbers(n, place, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(n, place, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(n, place, f64::from_le_bytes)?),
            other => return Err(self.error(start, place, format!("is an array of the unknown type {other}"))),
        })
    }

    fn numbers<T, const N: usize>(&mut self, n: usize, place: &str, from: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let size = n.checked_mul(N).ok_or_else(|| self.error(self.pos(), place, format!("has {n} elements")))?;
        Ok(self.take(size, place)?.as_chunks::<N>().0.iter().map(|b| from(*b)).collect())
    }

    /// One row of the tensor table; the range is still relative to the data section.
    fn tensor(&mut self, i: u64) -> Result<TensorInfo> {
        let start = self.pos();
        let name = self.string(&format!("tensor {i}"))?;
        let place = format!("tensor {name}");
        if name.is_empty() || name.len() > limits::MAX_NAME {
            let what = format!("its name has {} bytes; 1 to {} are possible", name.len(), limits::MAX_NAME);
            return Err(self.error(start, &format!("tensor {i}"), what));
        }
        let n = self.u32(&place)? as usize;
        if n == 0 || n > limits::MAX_DIMS {
            return Err(self.error(
                start,
                &place,
                format!("has {n} dimensions; 1 to {} are possible", limits::MAX_DIMS),
            ));
        }
        let mut dims = (0..n).map(|_| self.u64(&place)).collect::<Result<Vec<_>>>()?;
        dims.reverse();
        let dims: Vec<usize> = dims.iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
        let shape = Shape::new(&dims).map_err(|what| self.error(start, &place, what))?;
        let id = self.u32(&place)?;
        let format = BlockFormat::by_id(id).ok_or_else(|| {
            self.error(self.pos() - 4, &place, format!("has type {id}, which this version does not know"))
        })?;
        let offset = self.u64(&place)?;
        let size = format.row_bytes(shape.cols()).and_then(|row| row.checked_mul(shape.rows())).ok_or_else(|| {
            let what = format!(
                "its rows of {} weights are no multiple of {}'s block of {}",
                shape.cols(),
                format.name,
                format.block_weights
            );
            self.error(start, &place, what)
        })?;
        let offset = usize::try_from(offset).ok().filter(|o| o.checked_add(size).is_some());
        let offset = offset.ok_or_else(|| self.error(self.pos() - 8, &place, "its offset is beyond any file"))?;
        Ok(TensorInfo { name, shape, format, file: 0, range: offset..offset + size })
    }
}
