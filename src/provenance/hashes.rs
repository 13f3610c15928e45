//! Digests of tensors whose slices are made by several threads, in no certain order.

use super::Digest;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of a tensor that may wait for slices before them. Slices are handed out in order, so that few ever wait.
const WAITING: usize = 32 << 20;

/// Another thread has failed: there will be no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// Digests of some tensors. The thread whose slice is next hashes it and those that wait behind it; others leave theirs.
#[derive(Debug)]
pub struct TensorHashes {
    first: usize,
    tensors: Vec<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    hash: Sha256,
    /// Bytes hashed.
    next: u64,
    waiting: BTreeMap<u64, Vec<u8>>,
    waiting_bytes: usize,
    /// A thread has the hash.
    busy: bool,
    digest: Option<Digest>,
}

impl TensorHashes {
    /// For tensors of these numbers.
    pub fn new(tensors: Range<usize>) -> Self {
        TensorHashes { first: tensors.start, tensors: tensors.map(|_| Default::default()).collect() }
    }

    /// Takes a slice of a tensor of `size` bytes. Returns the digest to the one whose slice was the last.
    pub fn add(
        &self,
        tensor: usize,
        size: u64,
        at: u64,
        bytes: &[u8],
        failed: impl Fn() -> bool,
    ) -> Result<Option<Digest>, Failed> {
        let (state, drained) = &self.tensors[tensor - self.first];
        let mut s = lock(state);
        while at != s.next && s.waiting_bytes > WAITING {
            if failed() {
                return Err(Failed);
            }
            // Whoever fails does not tell: look again.
            let wait = drained.wait_timeout(s, Duration::from_millis(20));
            s = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        if at != s.next || s.busy {
            s.waiting_bytes += bytes.len();
            s.waiting.insert(at, bytes.to_vec());
            return Ok(None);
        }
        s.busy = true;
        let mut hash = std::mem::take(&mut s.hash);
        drop(s);
        hash.update(bytes);
        let mut done = bytes.len();
        loop {
            let mut s = lock(state);
            s.next += done as u64;
            let next = s.next;
            if let Some(bytes) = s.waiting.remove(&next) {
                s.waiting_bytes -= bytes.len();
                drained.notify_all();
                drop(s);
                hash.update(&bytes);
                done = bytes.len();
                continue;
            }
            s.busy = false;
            if next == size {
                s.digest = Some(hash.finalize().into());
                return Ok(s.digest);
            }
            s.hash = hash;
            return Ok(None);
        }
    }

    /// A tensor whose digest is known.
    pub fn set(&self, tensor: usize, digest: Digest) {
        lock(&self.tensors[tensor - self.first].0).digest = Some(digest);
    }

    /// The digest of a tensor all of whose bytes were taken.
    pub fn get(&self, tensor: usize) -> Option<Digest> {
        lock(&self.tensors[tensor - self.first].0).digest
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic elsewhere ends the conversion anyway.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_in_any_order_and_from_any_thread_give_the_digest_of_all() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 31 % 251) as u8).collect();
        let want: Digest = Sha256::digest(&data).into();
        let pieces: Vec<(usize, &[u8])> = data.chunks(997).enumerate().map(|(i, c)| (i * 997, c)).collect();
        for threads in 1..5 {
            let hashes = TensorHashes::new(5..7);
            let ends = std::sync::atomic::AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for k in 0..threads {
                    let (pieces, hashes, ends) = (&pieces, &hashes, &ends);
                    scope.spawn(move || {
                        for (at, bytes) in pieces.iter().rev().skip(k).step_by(threads) {
                            let end = hashes.add(6, 100_000, *at as u64, bytes, || false).unwrap();
                            ends.fetch_add(usize::from(end.is_some()), std::sync::atomic::Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!((hashes.get(6), hashes.get(5)), (Some(want), None));
            assert_eq!(ends.into_inner(), 1);
        }
    }

    #[test]
    fn nobody_waits_for_what_has_failed() {
        let hashes = TensorHashes::new(0..1);
        let large = vec![0; WAITING + 1];
        assert_eq!(hashes.add(0, 1 << 40, 100, &large, || true), Ok(None));
        assert_eq!(hashes.add(0, 1 << 40, 1 << 30, &[0], || true), Err(Failed));
    }
}
