//! An original's logits in a file, so that it runs once however many models are compared with it.

use crate::output;
use anyhow::Result;
use qconv_formats::Error;
use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// More than this is not recorded, however large the disk is. Bytes.
const MOST: u64 = 64 << 30;

/// The logits of all scored positions, in order, as they were computed: f32, nothing rounded.
#[derive(Debug)]
pub struct Recorded {
    file: File,
    path: PathBuf,
    vocabulary: usize,
    rows: usize,
    bytes: Vec<u8>,
}

/// Writes a [`Recorded`].
pub(super) struct Recorder {
    file: BufWriter<File>,
    path: PathBuf,
    vocabulary: usize,
    rows: usize,
}

/// Whether so many rows of logits may go to a file in `folder`: half of its free space, and 64 GiB at most.
pub fn can_record(folder: &Path, rows: usize, vocabulary: usize) -> bool {
    let need = (rows as u64).saturating_mul(vocabulary as u64).saturating_mul(4);
    need <= MOST && output::free_space(folder).is_none_or(|free| need <= free / 2)
}

impl Recorder {
    pub fn create(path: &Path, vocabulary: usize) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path).map_err(Error::io(path))?;
        Ok(Recorder { file: BufWriter::with_capacity(1 << 20, file), path: path.to_owned(), vocabulary, rows: 0 })
    }

    /// Adds rows: `(n, vocabulary)`.
    pub fn add(&mut self, logits: &[f32]) -> Result<()> {
        self.rows += logits.len() / self.vocabulary;
        logits.iter().try_for_each(|x| self.file.write_all(&x.to_le_bytes())).map_err(Error::io(&self.path))?;
        Ok(())
    }

    pub fn finish(self) -> Result<Recorded> {
        let file = self.file.into_inner().map_err(|e| Error::io(&self.path)(e.into_error()))?;
        Ok(Recorded { file, path: self.path, vocabulary: self.vocabulary, rows: self.rows, bytes: Vec::new() })
    }
}

impl Recorded {
    /// Logits of a row.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Rows that were recorded.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Reads rows from number `first` on; `out` holds a whole number of them.
    pub(super) fn read(&mut self, first: usize, out: &mut [f32]) -> Result<()> {
        self.bytes.resize(out.len() * 4, 0);
        let at = SeekFrom::Start((first * self.vocabulary * 4) as u64);
        let read = self.file.seek(at).and_then(|_| self.file.read_exact(&mut self.bytes));
        read.map_err(Error::io(&self.path))?;
        out.iter_mut().zip(self.bytes.as_chunks().0).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits");
        let mut recorder = Recorder::create(&path, 3).unwrap();
        let rows: Vec<f32> = vec![1.0, -0.0, f32::MIN_POSITIVE, f32::NEG_INFINITY, 1e30, -7.25, 3.0, 2.0, 1.0];
        recorder.add(&rows[..6]).unwrap();
        recorder.add(&rows[6..]).unwrap();
        let mut recorded = recorder.finish().unwrap();
        assert_eq!((recorded.rows(), recorded.vocabulary()), (3, 3));
        let mut out = [0.0; 6];
        recorded.read(1, &mut out).unwrap();
        assert_eq!(out, rows[3..]);
        assert!(recorded.read(2, &mut out).is_err(), "there are no rows behind the last");
        assert!(Recorder::create(&path, 3).is_err(), "what is there is not overwritten");
    }

    #[test]
    fn too_much_is_not_recorded() {
        assert!(can_record(Path::new("."), 1, 1));
        assert!(!can_record(Path::new("."), usize::MAX, usize::MAX));
        assert!(!can_record(Path::new("."), 1 << 20, 1 << 20));
    }
}
