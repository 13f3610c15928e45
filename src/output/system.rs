//! What differs between systems: writing by offset, file identity, free space, preallocation.

use std::fs::File;
use std::io;
use std::path::Path;

/// A file that threads write by offset.
#[derive(Debug)]
pub struct Positioned {
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

#[cfg(unix)]
impl Positioned {
    pub fn new(file: File) -> Self {
        Positioned { file }
    }

    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }

    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Takes the blocks from the disk where the file system can, so that later writes cannot fail for space.
    pub fn reserve(&self, size: u64) -> io::Result<()> {
        use rustix::io::Errno;
        if size > 0 {
            match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, size) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.file.set_len(size)
    }
}

#[cfg(not(unix))]
impl Positioned {
    pub fn new(file: File) -> Self {
        Positioned { file: std::sync::Mutex::new(file) }
    }

    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = self.lock();
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.lock();
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.lock().sync_all()
    }

    pub fn reserve(&self, size: u64) -> io::Result<()> {
        self.lock().set_len(size)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, File> {
        // Every write seeks first: a panic elsewhere leaves no state that matters.
        self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What tells one file from another, whatever its name: device and inode, or the canonical path elsewhere.
#[cfg(unix)]
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().map(|m| (m.dev(), m.ino()))
}

/// What tells one file from another.
#[cfg(not(unix))]
pub fn identity(path: &Path) -> io::Result<std::path::PathBuf> {
    path.canonicalize()
}

/// Whether an open file is still the one that lies at `path`.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|m| identity(path).is_ok_and(|id| id == (m.dev(), m.ino())))
}

/// Whether an open file is still the one that lies at `path`; an open file cannot be renamed here.
#[cfg(not(unix))]
pub fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Bytes that an ordinary user may still write to the file system of `folder`; `None` where it does not say.
#[cfg(unix)]
pub fn free_space(folder: &Path) -> Option<u64> {
    let s = rustix::fs::statvfs(folder).ok()?;
    // Some virtual file systems report no blocks at all.
    (s.f_blocks > 0).then(|| s.f_bavail.saturating_mul(s.f_frsize))
}

/// Not asked here: a full disk shows while writing.
#[cfg(not(unix))]
pub fn free_space(_: &Path) -> Option<u64> {
    None
}

/// Bytes of the disk that a file has already; 0 if there is none.
#[cfg(unix)]
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.metadata().map_or(0, |m| m.blocks() * 512)
}

/// Bytes of the disk that a file has already: not asked here.
#[cfg(not(unix))]
pub fn allocated(_: &Path) -> u64 {
    0
}

/// The limit on the size of files that this process writes. Beyond it the system would kill the process by SIGXFSZ.
#[cfg(unix)]
pub fn largest_file() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// No such limit here.
#[cfg(not(unix))]
pub fn largest_file() -> Option<u64> {
    None
}

/// Makes a rename last through a power failure.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot sync folders and say so by EINVAL.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Folders cannot be synced here.
#[cfg(not(unix))]
pub fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
