//! A file mapped into memory, read-only.

use crate::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A read-only memory map and the path it came from. Empty files are allowed and give an empty slice.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Option<memmap2::Mmap>,
}

impl Mapped {
    /// Maps a regular file. Errors: the path does not exist, is a folder, or cannot be mapped.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        // Asked before opening: opening a pipe waits for its other end.
        let meta = path.metadata().map_err(Error::io(&path))?;
        if !meta.is_file() {
            let what = if meta.is_dir() { "is a folder, where a file is needed" } else { "is no regular file" };
            return Err(Error::caller(format!("{}: {what}", path.display())));
        }
        let file = File::open(&path).map_err(Error::io(&path))?;
        if meta.len() == 0 {
            return Ok(Mapped { path, map: None });
        }
        // SAFETY: the map is read-only and private to this value. Another process that truncates or rewrites the file
        // while we read would be undefined behaviour in principle; like every tool that maps models we rely on input
        // files being left alone, and our own outputs replace files by rename, never in place.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(&path))?;
        Ok(Mapped { path, map: Some(map) })
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the system that the pages wholly inside `range` (bytes of the file) will not be needed again, so that
    /// streaming through a large file does not fill memory. A hint: errors are ignored, contents never change.
    pub fn forget(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            // The largest page size of the processor's family: advice has to begin and end on a page.
            const PAGE: usize = if cfg!(target_arch = "x86_64") { 4096 } else { 65536 };
            let start = range.start.div_ceil(PAGE) * PAGE;
            let end = range.end.min(map.len()) / PAGE * PAGE;
            if start < end {
                // SAFETY: MADV_DONTNEED on a read-only file mapping only drops clean pages; they are read again
                // from the file on the next access.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
