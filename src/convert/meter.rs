//! What the processor's time is spent on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// CPU seconds of a conversion, all threads together, by what they went into. Work of the system that a stage causes counts
/// with it: page faults are reading, copies into the page cache are writing.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Spent {
    /// Source bytes to floats.
    pub reading: f64,
    /// Floats to packed rows.
    pub quantizing: f64,
    /// SHA-256 of source files and tensors.
    pub hashing: f64,
    /// Packed rows to the output file.
    pub writing: f64,
}

/// A part of the work.
#[derive(Debug, Clone, Copy)]
pub enum Stage {
    Reading,
    Quantizing,
    Hashing,
    Writing,
}

/// Adds up what threads spend.
#[derive(Debug, Default)]
pub struct Meter {
    nanos: [AtomicU64; 4],
}

impl Meter {
    /// The clock of this thread, which counts from now on.
    pub fn start(&self) -> Lap<'_> {
        Lap { meter: self, last: now(), nanos: [0; 4] }
    }

    /// The sums; `None` where the system does not tell.
    pub fn spent(&self) -> Option<Spent> {
        let seconds = |stage: Stage| self.nanos[stage as usize].load(Ordering::Relaxed) as f64 / 1e9;
        now().map(|_| Spent {
            reading: seconds(Stage::Reading),
            quantizing: seconds(Stage::Quantizing),
            hashing: seconds(Stage::Hashing),
            writing: seconds(Stage::Writing),
        })
    }
}

/// One thread's clock.
#[derive(Debug)]
pub struct Lap<'a> {
    meter: &'a Meter,
    last: Option<Duration>,
    nanos: [u64; 4],
}

impl Lap<'_> {
    /// What this thread did since the last call was `stage`.
    pub fn was(&mut self, stage: Stage) {
        let now = now();
        if let (Some(now), Some(last)) = (now, self.last) {
            self.nanos[stage as usize] += now.saturating_sub(last).as_nanos() as u64;
        }
        self.last = now;
    }

    /// What it did since then counts for nothing.
    pub fn skip(&mut self) {
        self.last = now();
    }
}

impl Drop for Lap<'_> {
    fn drop(&mut self) {
        for (sum, nanos) in self.meter.nanos.iter().zip(self.nanos) {
            sum.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

/// CPU time of the calling thread.
#[cfg(unix)]
fn now() -> Option<Duration> {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Some(Duration::new(u64::try_from(t.tv_sec).ok()?, u32::try_from(t.tv_nsec).ok()?))
}

/// Not asked here.
#[cfg(not(unix))]
fn now() -> Option<Duration> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn work_counts_where_it_is_said_to_belong_and_sleep_counts_nowhere() {
        let meter = Meter::default();
        let mut lap = meter.start();
        let busy = || {
            let start = now().unwrap();
            while now().unwrap() - start < Duration::from_millis(20) {}
        };
        busy();
        lap.was(Stage::Quantizing);
        std::thread::sleep(Duration::from_millis(50));
        lap.was(Stage::Writing);
        busy();
        lap.skip();
        drop(lap);
        let spent = meter.spent().unwrap();
        assert!(spent.quantizing >= 0.02 && spent.writing < 0.02, "{spent:?}");
        assert_eq!((spent.reading, spent.hashing), (0.0, 0.0));
    }
}
