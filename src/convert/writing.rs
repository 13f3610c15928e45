//! Threads that write while others quantize.

use super::meter::{Lap, Meter, Stage};
use crate::output::{OutputFile, Piece};
use anyhow::Result;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Enough to keep a disk busy.
const WRITERS: usize = 2;
/// Pieces that may wait for a writer; then who makes them waits.
const WAITING: usize = 4;

/// Packed rows on their way into a file.
struct Job {
    file: usize,
    offset: u64,
    piece: Piece,
    /// Which of all slices it is.
    number: usize,
}

/// Takes pieces; used by all threads that make them.
pub struct Writing<'a> {
    jobs: SyncSender<Job>,
    /// Memory to use again.
    spare: &'a Mutex<Vec<Piece>>,
}

impl Writing<'_> {
    /// Room for `len` bytes at an offset.
    pub fn piece(&self, offset: u64, len: usize) -> Piece {
        let mut piece = lock(self.spare).pop().unwrap_or_default();
        piece.shape(offset, len);
        piece
    }

    /// Hands a piece over.
    pub fn write(&self, file: usize, offset: u64, piece: Piece, number: usize) {
        // Writers go on taking pieces until nobody can make any.
        let _ = self.jobs.send(Job { file, offset, piece, number });
    }
}

/// Runs `work`, and writes what it hands over. `written` is told of each piece, by its number. When this returns, everything is
/// written, though not yet on the disk.
pub fn beside(
    files: &[OutputFile],
    meter: &Meter,
    written: &(dyn Fn(usize, Result<()>) + Sync),
    work: impl FnOnce(&Writing),
) {
    let (jobs, queue) = sync_channel(WAITING);
    let (queue, spare) = (Mutex::new(queue), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| write(files, &queue, &spare, meter.start(), written));
        }
        work(&Writing { jobs, spare: &spare });
    });
}

fn write(
    files: &[OutputFile],
    queue: &Mutex<Receiver<Job>>,
    spare: &Mutex<Vec<Piece>>,
    mut lap: Lap,
    written: &dyn Fn(usize, Result<()>),
) {
    loop {
        let job = lock(queue).recv();
        let Ok(Job { file, offset, piece, number }) = job else { break };
        let result = files[file].write_at(offset, &piece);
        lap.was(Stage::Writing);
        written(number, result);
        lock(spare).push(piece);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that is locked can be left half changed by a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
