//! Ctrl-C, SIGTERM and SIGHUP remove what is unfinished.

use anyhow::Context as _;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The temporary files and folders of this process.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Something unfinished is kept for a later run.
static KEPT: AtomicBool = AtomicBool::new(false);
/// Whether the signal handler is there.
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// The list of temporary files, locked; an interrupt waits while it is held. The first call installs the handler.
pub fn unfinished() -> anyhow::Result<MutexGuard<'static, BTreeSet<PathBuf>>> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed {
        ctrlc::set_handler(stop).context("cannot watch for Ctrl-C")?;
        *installed = true;
    }
    Ok(lock())
}

/// Notes whether something unfinished is kept, for what an interrupt says.
pub fn keep(yes: bool) {
    KEPT.fetch_or(yes, Ordering::Relaxed);
}

/// Removes a temporary file or folder and forgets it.
pub fn remove(part: &Path) {
    // Errors do not matter: what cannot be removed is overwritten by the next run to the same destination.
    let _ = if part.is_dir() { std::fs::remove_dir_all(part) } else { std::fs::remove_file(part) };
    lock().remove(part);
}

fn lock() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A set of paths cannot be left half changed by a panic in another thread.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs on the handler's own thread. The lock is kept to the end: no new file appears behind our back.
fn stop() {
    let parts = lock();
    for part in parts.iter() {
        let _ = if part.is_dir() { std::fs::remove_dir_all(part) } else { std::fs::remove_file(part) };
    }
    let rest = match (parts.is_empty(), KEPT.load(Ordering::Relaxed)) {
        (_, true) => "; the same command with --resume goes on from here",
        (true, _) => "",
        _ => "; the unfinished output is removed",
    };
    crate::ui::tell(format!("interrupted{rest}\n"));
    std::process::exit(130);
}
