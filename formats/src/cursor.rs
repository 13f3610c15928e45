//! Little-endian fields, one after another: what the readers of binary files share. Each adds its own kinds of fields.

use crate::{Error, Result};
use std::path::Path;

/// Where reading has come to.
pub(crate) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a file's bytes.
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Cursor { path, bytes, pos: 0 }
    }

    /// Bytes that were read.
    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    /// Goes back to where it has been.
    pub(crate) fn back_to(&mut self, pos: usize) {
        debug_assert!(pos <= self.pos);
        self.pos = pos;
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.pos
    }

    /// The file's fault, at a byte.
    pub(crate) fn error(&self, at: usize, place: &str, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, format!("{place} at byte {at}"), problem)
    }

    /// The next `n` bytes. Error: so many are not left.
    pub(crate) fn take(&mut self, n: usize, place: &str) -> Result<&'a [u8]> {
        if n > self.left() {
            let what = format!("needs {n} more bytes, {} are left: the file is truncated or corrupted", self.left());
            return Err(self.error(self.pos, place, what));
        }
        self.pos += n;
        Ok(&self.bytes[self.pos - n..self.pos])
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, place: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, place)?);
        Ok(out)
    }

    pub(crate) fn i32(&mut self, place: &str) -> Result<i32> {
        Ok(i32::from_le_bytes(self.array(place)?))
    }

    pub(crate) fn u32(&mut self, place: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(place)?))
    }

    pub(crate) fn u64(&mut self, place: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(place)?))
    }

    /// A string of `n` bytes.
    pub(crate) fn text(&mut self, n: usize, place: &str) -> Result<String> {
        let start = self.pos;
        match std::str::from_utf8(self.take(n, place)?) {
            Ok(s) => Ok(s.to_owned()),
            Err(e) => Err(self.error(start + e.valid_up_to(), place, "holds a string that is not valid UTF-8")),
        }
    }
}
