//! Writing in two phases: lay everything out first, then fill in tensors in any order.
//!
//! [`Writer`] does no I/O: it says what the head of the file is and where each tensor goes, so that outputs can be
//! written by offset, in parallel, and their size checked against the free space beforehand.

use super::{Array, MAGIC, Metadata, VERSION, Value};
use crate::block::BlockFormat;
use crate::{Error, Result, Shape, limits};
use std::ops::Range;

/// Alignment of tensor data where `general.alignment` says nothing.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// Name, at most [`limits::MAX_NAME`] bytes.
    pub name: String,
    /// Logical shape, outermost dimension first.
    pub shape: Shape,
    /// How rows are packed; they must be whole blocks.
    pub format: &'static BlockFormat,
}

/// The layout of a file: its head (header, metadata, tensor table, padding) and every tensor's place.
#[derive(Debug)]
pub struct Writer {
    head: Vec<u8>,
    ranges: Vec<Range<u64>>,
    size: u64,
}

impl Writer {
    /// Lays a file out; tensors stand in the order given. Errors name the key or tensor that cannot be written, and
    /// everything is refused that [`super::Gguf::open`] would not read.
    ///
    /// As ggml does, outer dimensions of 1 are left out: a matrix of one row becomes a vector. The file ends with the
    /// padding of its last tensor, as llama-quantize's and gguf-py's do.
    pub fn new(metadata: &Metadata, tensors: &[TensorEntry]) -> Result<Self> {
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT as u64,
            Some(Value::U32(n)) if n.is_power_of_two() && *n >= 8 && *n <= limits::MAX_ALIGNMENT => u64::from(*n),
            Some(v) => return Err(Error::caller(format!("general.alignment: {v:?} is no power of two from 8"))),
        };
        if tensors.len() as u64 > limits::MAX_TENSORS || metadata.len() as u64 > limits::MAX_KEYS {
            let (t, k) = (tensors.len(), metadata.len());
            return Err(Error::caller(format!("{t} tensors and {k} keys are more than one GGUF file may have")));
        }
        let mut head = Vec::new();
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            check_value(key, value)?;
            put_string(&mut head, key);
            head.extend((value.value_type() as u32).to_le_bytes());
            put_value(&mut head, value);
        }

        let mut ranges = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        let mut names = std::collections::HashSet::new();
        for t in tensors {
            let fail = |what: String| Error::caller(format!("tensor {}: {what}", t.name));
            if t.name.is_empty() || t.name.len() > limits::MAX_NAME {
                return Err(fail(format!(
                    "its name has {} bytes; 1 to {} are possible",
                    t.name.len(),
                    limits::MAX_NAME
                )));
            }
            if !names.insert(t.name.as_str()) {
                return Err(fail("appears twice".into()));
            }
            let size =
                t.format.row_bytes(t.shape.cols()).and_then(|row| row.checked_mul(t.shape.rows())).ok_or_else(|| {
                    fail(format!("rows of {} weights are no multiple of {}'s block", t.shape.cols(), t.format.name))
                })? as u64;
            put_string(&mut head, &t.name);
            let ones = t.shape.dims().iter().take_while(|&&d| d == 1).count();
            let dims = &t.shape.dims()[ones.min(t.shape.dims().len() - 1)..];
            head.extend((dims.len() as u32).to_le_bytes());
            for &d in dims.iter().rev() {
                head.extend((d as u64).to_le_bytes());
            }
            head.extend(t.format.ggml_id.to_le_bytes());
            head.extend(offset.to_le_bytes());
            let end =
                offset.checked_add(size).filter(|&end| end < 1 << 62).ok_or_else(|| fail("is too large".into()))?;
            ranges.push(offset..end);
            offset = end.next_multiple_of(alignment);
        }
        head.resize(head.len().next_multiple_of(alignment as usize), 0);
        let start = head.len() as u64;
        for r in &mut ranges {
            *r = r.start + start..r.end + start;
        }
        Ok(Writer { head, ranges, size: start + offset })
    }

    /// Everything before the first tensor, padded to the alignment.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Bytes of the file that the i-th tensor takes.
    pub fn range(&self, i: usize) -> Range<u64> {
        self.ranges[i].clone()
    }

    /// Bytes of the whole file, the padding behind the last tensor included. Bytes between tensors are zero.
    pub fn file_size(&self) -> u64 {
        self.size
    }
}

fn check_value(key: &str, value: &Value) -> Result<()> {
    let fail = |what: &str| Err(Error::caller(format!("key {key:?}: {what}")));
    fn depth(array: &Array) -> usize {
        match array {
            Array::Array(inner) => 1 + inner.iter().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    match value {
        _ if key.is_empty() || key.len() > limits::MAX_KEY => fail("its name is empty or too long"),
        Value::Array(a) if depth(a) > limits::MAX_ARRAY_DEPTH => fail("nests arrays too deeply"),
        Value::Array(a @ (Array::String(_) | Array::Array(_))) if a.len() as u64 > limits::MAX_STRINGS => {
            fail("has too many elements")
        }
        _ => Ok(()),
    }
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend((array.element_type() as u32).to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::U16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::I16(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::U32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::I32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::F32(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::Bool(v) => v.iter().for_each(|x| out.push(u8::from(*x))),
        Array::String(v) => v.iter().for_each(|x| put_string(out, x)),
        Array::Array(v) => v.iter().for_each(|x| put_array(out, x)),
        Array::U64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::I64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Array::F64(v) => v.iter().for_each(|x| out.extend(x.to_le_bytes())),
    }
}
