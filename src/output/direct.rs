//! Writing past the page cache, on Linux: whole blocks of a large output go from our memory to the disk.
//!
//! Nobody reads a large output right after it was written, and it has to be on the disk before it appears: a copy in the
//! page cache costs time to make, drives other files out, and is waited for at the end. Where a file system refuses
//! (`EINVAL`), the page cache takes the bytes as ever.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What offsets, lengths and addresses have to be multiples of: the page size, and no disk's blocks are larger.
const BLOCK: usize = 4096;
/// Smaller files are likely to be read soon.
const LARGE: u64 = 64 << 20;

/// Bytes for a place in a file that lie in memory as they will on the disk, relative to blocks. Its memory is used again.
#[derive(Debug, Default)]
pub struct Piece {
    memory: Vec<u8>,
    range: Range<usize>,
}

impl Piece {
    /// Makes it `len` bytes long, for a certain offset of a file. What it holds is anything.
    pub fn shape(&mut self, offset: u64, len: usize) {
        let room = len + 2 * BLOCK;
        if self.memory.len() < room {
            self.memory.resize(room, 0);
        }
        // The function may answer that it does not know; then blocks are not aligned, and the page cache is used.
        let block = Some(self.memory.as_ptr().align_offset(BLOCK)).filter(|at| *at < BLOCK);
        let start = block.map_or(0, |at| at + (offset % BLOCK as u64) as usize);
        self.range = start..start + len;
    }
}

impl Deref for Piece {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.range.clone()]
    }
}

/// A second handle of an output file.
#[derive(Debug)]
pub struct Direct {
    file: Option<File>,
    refused: AtomicBool,
}

impl Direct {
    /// For the file that lies at `part` and is open already as `same`, if it will have this size.
    pub fn open(part: &Path, same: &File, size: u64) -> Self {
        let file = if size < LARGE { None } else { open(part, same) };
        Direct { file, refused: AtomicBool::new(false) }
    }

    /// Writes as much of `bytes` as is whole blocks and lies well. Returns which of them that was.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<Range<usize>> {
        let Some(file) = self.file.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed)) else { return Ok(0..0) };
        let start = (offset.next_multiple_of(BLOCK as u64) - offset) as usize;
        let len = bytes.len().saturating_sub(start) / BLOCK * BLOCK;
        if len == 0 || bytes[start..].as_ptr().align_offset(BLOCK) != 0 {
            return Ok(0..0);
        }
        match write_all(file, &bytes[start..start + len], offset + start as u64) {
            Ok(()) => Ok(start..start + len),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(0..0)
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(target_os = "linux")]
fn open(part: &Path, same: &File) -> Option<File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = File::options().write(true).custom_flags(direct).open(part).ok()?;
    let (a, b) = (file.metadata().ok()?, same.metadata().ok()?);
    ((a.dev(), a.ino()) == (b.dev(), b.ino())).then_some(file)
}

#[cfg(not(target_os = "linux"))]
fn open(_: &Path, _: &File) -> Option<File> {
    None
}

#[cfg(unix)]
fn write_all(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_all(_: &File, _: &[u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::OutputFile;

    #[test]
    fn pieces_that_begin_and_end_anywhere_are_written_whole() {
        const SIZE: usize = LARGE as usize + 777;
        let byte = |i: usize| (i * 31 % 251) as u8;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let file = OutputFile::create(&path, SIZE as u64, false).unwrap();
        let mut piece = Piece::default();
        // From the end to the beginning, so that neighbours meet inside a block; the longest first, so that memory is used
        // again; one that is larger than a file's cache would be.
        let mut end = SIZE;
        for len in [1 << 20, 100_001, 4095, 4096, 4097, 1, 8192, 12_289].into_iter().cycle() {
            let start = end.saturating_sub(len);
            piece.shape(start as u64, end - start);
            assert_eq!(piece.len(), end - start);
            piece.iter_mut().enumerate().for_each(|(i, b)| *b = byte(start + i));
            file.write_at(start as u64, &piece).unwrap();
            end = start;
            if end == 0 {
                break;
            }
        }
        // Bytes that lie otherwise in memory are written as well.
        file.write_at(4096, &piece[1..2]).unwrap();
        file.write_at(4096, &[byte(4096)]).unwrap();
        file.finish().unwrap();
        let written = std::fs::read(&path).unwrap();
        assert_eq!(written.len(), SIZE);
        let wrong = written.iter().enumerate().find(|(i, b)| **b != byte(*i));
        assert!(wrong.is_none(), "{wrong:?}");
    }

    #[test]
    fn only_whole_blocks_go_past_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(LARGE).unwrap();
        let direct = Direct::open(&path, &file, LARGE);
        let (mut piece, bytes) = (Piece::default(), |d: &Direct, p: &Piece, at| d.write(p, at).unwrap());
        piece.shape(100, 10_000);
        let whole = bytes(&direct, &piece, 100);
        // Some file systems (tmpfs before Linux 6.6) refuse: then nothing was written.
        assert!([3996..8092, 0..0].contains(&whole), "{whole:?}");
        piece.shape(100, 4000);
        assert_eq!(bytes(&direct, &piece, 100), 0..0, "no whole block");
        piece.shape(0, 8192);
        assert_eq!(bytes(&direct, &piece, 1), 0..0, "not where it was shaped for");
        assert_eq!(bytes(&Direct::open(&path, &file, LARGE - 1), &piece, 0), 0..0, "a small file");
    }
}
