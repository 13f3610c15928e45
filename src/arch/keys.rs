//! A family's hyper-parameters in GGUF metadata.

use crate::error::malformed;
use qconv_formats::gguf::{Array, Metadata};
use std::path::Path;

/// Reads `ARCH.key` with errors that name the key.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// The family's name.
    pub arch: &'a str,
    /// The file's metadata.
    pub metadata: &'a Metadata,
    /// For errors.
    pub file: &'a Path,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// A number that must be there; `0` is refused, and so is what no model has (over 2^32).
    pub fn size(&self, key: &str) -> anyhow::Result<usize> {
        self.maybe_size(key)?.ok_or_else(|| malformed(self.file, format!("key {}", self.full(key)), "is missing"))
    }

    /// A number that may be missing. An array of equal numbers (per layer) counts as that number.
    pub fn maybe_size(&self, key: &str) -> anyhow::Result<Option<usize>> {
        let full = self.full(key);
        let Some(value) = self.metadata.get(&full) else { return Ok(None) };
        let number = value.as_u64().or_else(|| {
            let all = value.as_array()?.to_u64s()?;
            let first = *all.first()?;
            all.iter().all(|&x| x == first).then_some(first)
        });
        match number {
            Some(n) if n > 0 && n <= u64::from(u32::MAX) => Ok(Some(n as usize)),
            _ => Err(malformed(
                self.file,
                format!("key {full}"),
                format!("holds {value:?} where one positive number is needed"),
            )),
        }
    }

    /// A number that may be missing; zero counts as missing.
    pub fn maybe_size_or_zero(&self, key: &str) -> anyhow::Result<Option<usize>> {
        if self.metadata.u64(&self.full(key)) == Some(0) { Ok(None) } else { self.maybe_size(key) }
    }

    /// A float that must be there.
    pub fn float(&self, key: &str) -> anyhow::Result<f32> {
        self.maybe_float(key)?.ok_or_else(|| malformed(self.file, format!("key {}", self.full(key)), "is missing"))
    }

    /// A float that may be missing; it must be finite.
    pub fn maybe_float(&self, key: &str) -> anyhow::Result<Option<f32>> {
        let full = self.full(key);
        match self.metadata.get(&full) {
            None => Ok(None),
            Some(v) => match v.as_f32() {
                Some(x) if x.is_finite() => Ok(Some(x)),
                _ => Err(malformed(
                    self.file,
                    format!("key {full}"),
                    format!("holds {v:?} where a finite float is needed"),
                )),
            },
        }
    }

    /// Yes or no per layer (booleans, or numbers of which zero means no); may be missing.
    pub fn maybe_flags(&self, key: &str, layers: usize) -> anyhow::Result<Option<Vec<bool>>> {
        let full = self.full(key);
        let Some(value) = self.metadata.get(&full) else { return Ok(None) };
        let list = match value.as_array() {
            Some(Array::Bool(list)) => Some(list.clone()),
            Some(numbers) => numbers.to_u64s().map(|list| list.iter().map(|&x| x != 0).collect()),
            None => None,
        };
        match list {
            Some(list) if list.len() >= layers => Ok(Some(list[..layers].to_vec())),
            Some(list) => {
                let what = format!("has {} entries for {layers} layers", list.len());
                Err(malformed(self.file, format!("key {full}"), what))
            }
            None => Err(malformed(self.file, format!("key {full}"), "holds no list of yes or no per layer")),
        }
    }

    /// A string that may be missing.
    pub fn maybe_str(&self, key: &str) -> Option<&str> {
        self.metadata.str(&self.full(key))
    }

    /// Number of layers, heads and so on are bounded so that no allocation grows from a corrupted number.
    pub fn bounded(&self, key: &str, most: usize) -> anyhow::Result<usize> {
        let n = self.size(key)?;
        if n > most {
            return Err(malformed(
                self.file,
                format!("key {}", self.full(key)),
                format!("{n} is beyond the limit {most}"),
            ));
        }
        Ok(n)
    }
}
