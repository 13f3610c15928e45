//! Output files that appear whole or not at all.
//!
//! Everything is written to a temporary sibling, `.NAME.part`, which replaces the destination in one step when it is
//! complete and on the disk. Until then the destination is not touched: not by an error, a full disk, Ctrl-C, a kill.
//! What a killed run leaves behind is the `.part` file; the next run to the same destination overwrites it, or goes on with it
//! if it is told that it can ([`Start`]).

mod direct;
mod interrupt;
mod set;
mod system;

pub use direct::Piece;
pub use set::OutputSet;
pub use system::free_space;

use crate::error::caller;
use crate::ui;
use anyhow::Context as _;
use qconv_formats::Error;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A file of known size that is being written. Dropping it without [`OutputFile::finish`] removes what was written.
#[derive(Debug)]
pub struct OutputFile {
    file: system::Positioned,
    /// The way past the page cache.
    direct: direct::Direct,
    /// Where it goes.
    path: PathBuf,
    /// Where it is written, in the same folder.
    part: PathBuf,
    size: u64,
    force: bool,
    /// What is unfinished stays, for the next run.
    keep: bool,
    finished: bool,
}

/// How an output begins, and what becomes of it if it does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// Replace an existing file.
    pub force: bool,
    /// Go on with the temporary file of an earlier run.
    pub go_on: bool,
    /// Leave the temporary file for a later run if this one is interrupted or fails.
    pub keep: bool,
}

impl OutputFile {
    /// Opens the temporary sibling of `path` and reserves `size` bytes for it.
    ///
    /// Errors, the caller's fault (exit code 2): `path` exists and `force` is not given; it is a folder, a device or a
    /// pipe; its folder does not exist; another process is writing it. The system's (exit code 1): the disk has less
    /// free space than `size`, or refuses.
    pub fn create(path: impl AsRef<Path>, size: u64, force: bool) -> anyhow::Result<Self> {
        Self::start(path, size, Start { force, ..Start::default() })
    }

    /// [`OutputFile::create`], with more to say.
    pub fn start(path: impl AsRef<Path>, size: u64, start: Start) -> anyhow::Result<Self> {
        let Start { force, go_on, keep } = start;
        let path = destination(path.as_ref(), force)?;
        let part = part_of(&path);
        // The lock is held over opening and noting, so that an interrupt sees all of it or nothing.
        let mut parts = interrupt::unfinished()?;
        let file = open_part(&part, go_on)?;
        interrupt::keep(keep);
        if !keep {
            parts.insert(part.clone());
        }
        drop(parts);
        let direct = direct::Direct::open(&part, &file, size);
        let file = system::Positioned::new(file);
        let out = OutputFile { file, direct, path, part, size, force, keep, finished: false };
        out.reserve()?;
        Ok(out)
    }

    /// Refuses a destination that is one of the files that are being read, under whatever name, or is inside a folder
    /// that is read and replaces one of its files. Exit code 2.
    pub fn protect(&self, inputs: &[&Path]) -> anyhow::Result<()> {
        protect(&self.path, inputs)
    }

    /// Writes bytes at an offset; several threads may do so at once. Bytes that are never written are zero. Large outputs are
    /// best written in [`Piece`]s.
    ///
    /// Errors: beyond the size given to [`OutputFile::create`], or refused by the system.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= self.size);
        anyhow::ensure!(
            end.is_some(),
            "{}: {} bytes at {offset} do not fit into the {} bytes laid out (a fault of qconv)",
            self.path.display(),
            bytes.len(),
            self.size
        );
        let write = || {
            let done = self.direct.write(bytes, offset)?;
            for rest in [0..done.start, done.end..bytes.len()] {
                self.file.write_all_at(&bytes[rest.clone()], offset + rest.start as u64)?;
            }
            Ok(())
        };
        write().map_err(|e| self.refused(e))
    }

    /// Reads back what was written; to the end of the file at most.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> anyhow::Result<()> {
        let read = self.file.read_exact_at(out, offset);
        read.map_err(|e| Error::Io { file: self.part.clone(), cause: e }.into())
    }

    /// Where the file will appear.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bytes lie until then; for checks of what was written before it appears.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Bytes that the file will have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Waits until everything is on the disk, then moves the file to its destination and waits for that too.
    pub fn finish(self) -> anyhow::Result<()> {
        OutputSet::of(self).finish()
    }

    /// Checks the free space, then reserves the blocks, so that a disk that is too small is found before the first byte.
    fn reserve(&self) -> anyhow::Result<()> {
        if let Some(most) = system::largest_file().filter(|&most| most < self.size) {
            return Err(system_error(
                &self.path,
                format!(
                    "needs {} bytes, but this process may write files of {most} bytes at most (ulimit -f)",
                    self.size
                ),
            ));
        }
        let needed = self.size.saturating_sub(system::allocated(&self.part));
        if let Some(free) = system::free_space(folder_of(&self.path)).filter(|&free| free < needed) {
            return Err(system_error(&self.path, no_space(needed, free)));
        }
        self.file.reserve(self.size).map_err(|e| self.refused(e))
    }

    /// The system's refusal in words.
    fn refused(&self, e: io::Error) -> anyhow::Error {
        if e.kind() == io::ErrorKind::StorageFull || e.kind() == io::ErrorKind::QuotaExceeded {
            let free = system::free_space(folder_of(&self.path)).unwrap_or(0);
            return system_error(&self.path, format!("{} ({e})", no_space(self.size, free)));
        }
        Error::Io { file: self.part.clone(), cause: e }.into()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.finished && !self.keep {
            interrupt::remove(&self.part);
        }
    }
}

/// A folder for files that nobody keeps: removed with everything in it when dropped, and on Ctrl-C.
#[derive(Debug)]
pub struct ScratchFolder {
    path: PathBuf,
}

impl ScratchFolder {
    /// Makes `PREFIX-N` in the system's folder for temporary files (`TMPDIR`).
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("{prefix}-{}", std::process::id()));
        let mut unfinished = interrupt::unfinished()?;
        std::fs::create_dir(&path).map_err(Error::io(&path))?;
        unfinished.insert(path.clone());
        Ok(ScratchFolder { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        interrupt::remove(&self.path);
    }
}

/// Writes a small file whole: [`OutputFile::create`], one write, [`OutputFile::finish`].
pub fn write_whole(path: impl AsRef<Path>, bytes: &[u8], force: bool) -> anyhow::Result<()> {
    let out = OutputFile::create(path, bytes.len() as u64, force)?;
    out.write_at(0, bytes)?;
    out.finish()
}

/// What `-o` means: `name` inside it if it is a folder (or ends like one), else itself.
pub fn or_in_folder(output: &Path, name: impl AsRef<OsStr>) -> PathBuf {
    let slash = output.as_os_str().as_encoded_bytes().last().is_some_and(|&c| std::path::is_separator(c.into()));
    if slash || output.is_dir() { output.join(name.as_ref()) } else { output.to_owned() }
}

/// As [`OutputFile::protect`], before an output is created. An input that is a folder stands for the files in it.
pub fn protect(output: &Path, inputs: &[&Path]) -> anyhow::Result<()> {
    let Ok(out) = system::identity(output) else { return Ok(()) };
    let same = |input: &Path| system::identity(input).is_ok_and(|id| id == out);
    for input in inputs {
        let inside = input.is_dir().then(|| std::fs::read_dir(input).ok()).flatten();
        let read = match inside {
            None => same(input).then(|| input.to_path_buf()),
            Some(entries) => entries.flatten().map(|e| e.path()).find(|p| same(p)),
        };
        if let Some(read) = read {
            let (o, r) = (output.display(), read.display());
            return Err(caller(format!("{o} is the same file as the input {r}: name another output")));
        }
    }
    Ok(())
}

/// Checks the destination; a symbolic link is followed, so that the file behind it is replaced and not the link.
fn destination(path: &Path, force: bool) -> anyhow::Result<PathBuf> {
    let shown = path.display();
    if path.file_name().is_none() {
        return Err(caller(format!("{shown}: names no file; give the output a name")));
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        let what = if folder.exists() { "is no folder" } else { "does not exist; create the folder first" };
        return Err(caller(format!("cannot write {shown}: {} {what}", folder.display())));
    }
    let mut path = path.to_owned();
    let Ok(found) = path.symlink_metadata() else { return Ok(path) };
    if found.is_symlink() {
        path = path
            .canonicalize()
            .map_err(|e| caller(format!("{shown}: is a symbolic link that leads nowhere ({e}); remove it first")))?;
    }
    let found = path.metadata().map_err(Error::io(&path))?;
    if found.is_dir() {
        return Err(caller(format!("{shown}: is a folder; name a file in it")));
    }
    if !found.is_file() {
        return Err(caller(format!(
            "{shown}: is a device, pipe or socket; the output is written by offset and needs a regular file's name"
        )));
    }
    if !force {
        return Err(exists(&path));
    }
    Ok(path)
}

fn exists(path: &Path) -> anyhow::Error {
    caller(format!("{} exists already; --force replaces it", path.display()))
}

/// The folder of a file; `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Where the temporary sibling of a file lies: `folder/NAME` -> `folder/.NAME.part`.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    path.with_file_name(name)
}

/// Opens the temporary file, locked, and empty unless an earlier run's content is needed; the lock ends with the process,
/// however it ends.
fn open_part(part: &Path, go_on: bool) -> anyhow::Result<File> {
    loop {
        if part.symlink_metadata().is_ok_and(|m| !m.is_file()) {
            return Err(caller(format!("{} is in the way and no regular file; remove it", part.display())));
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part);
        let file = file.map_err(Error::io(part)).context("cannot create the temporary file of the output")?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(caller(format!("another process is writing {} now", part.display())));
            }
            // Some network file systems have no locks; there, two runs to one destination are the caller's affair.
            Err(TryLockError::Error(_)) => {}
        }
        // Another run may have moved the file to its destination between opening and locking: then what we hold is
        // its finished output, which must not be emptied.
        if system::is_at(&file, part) {
            if !go_on {
                file.set_len(0).map_err(Error::io(part))?;
            }
            return Ok(file);
        }
    }
}

fn no_space(needed: u64, free: u64) -> String {
    format!(
        "the disk is too full: {needed} bytes ({}) are needed, {free} bytes ({}) are free",
        ui::bytes(needed),
        ui::bytes(free)
    )
}

fn system_error(path: &Path, sentence: String) -> anyhow::Error {
    Error::Io { file: path.to_owned(), cause: io::Error::new(io::ErrorKind::StorageFull, sentence) }.into()
}

#[cfg(test)]
mod tests;
