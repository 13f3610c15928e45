//! Whether weights are read where the file is mapped, or copied into huge pages first.

use super::{Bandwidth, Weights};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much faster huge pages must be read to be worth the memory and the time to copy.
const WORTH: f64 = 1.1;

/// The share of the machine's memory that a copy made without being asked for leaves free.
const LEFT: f64 = 0.25;

/// The decision, and what came of it.
pub(super) struct Placing {
    asked: Weights,
    /// Of huge pages over small ones, where it was measured.
    faster: Option<f64>,
    /// Bytes that stayed mapped because a copy would have taken too much memory.
    short_of: AtomicU64,
}

impl Placing {
    pub(super) fn new(asked: Weights) -> Self {
        Placing { asked, faster: None, short_of: AtomicU64::new(0) }
    }

    /// Takes note of a measurement, for [`Weights::Auto`].
    pub(super) fn measured(&mut self, bandwidth: Bandwidth) {
        self.faster = Some(bandwidth.huge_pages / bandwidth.small_pages);
    }

    /// Whether a weight of so many bytes is to be copied.
    pub(super) fn copies(&self, bytes: usize) -> bool {
        match self.asked {
            Weights::Mapped => false,
            Weights::Copied => true,
            Weights::Auto => {
                let worth = self.faster.is_some_and(|f| f >= WORTH);
                // Where the system does not tell what is free, nothing is taken without being asked for.
                let fits = memory().is_some_and(|(total, free)| free - bytes as f64 >= LEFT * total);
                if worth && !fits {
                    self.short_of.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                worth && fits
            }
        }
    }
}

/// For the backend's name.
impl fmt::Display for Placing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.asked, self.faster) {
            (Weights::Mapped, _) | (Weights::Auto, None) => Ok(()),
            (Weights::Copied, _) => write!(f, ", weights copied"),
            (Weights::Auto, Some(faster)) => {
                let what = if faster >= WORTH { "copied" } else { "mapped" };
                write!(f, ", weights {what}: huge pages are read {faster:.2} times as fast")?;
                match self.short_of.load(Ordering::Relaxed) {
                    0 => Ok(()),
                    n => write!(f, "; {:.0} MB stay mapped, memory is short", n as f64 / 1e6),
                }
            }
        }
    }
}

/// Bytes of memory in all, and of what could be had now. (A container's limit is not seen here.)
fn memory() -> Option<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    };
    Some((1024.0 * kib("MemTotal:")?, 1024.0 * kib("MemAvailable:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurement_decides_and_is_told() {
        let decided = |small_pages, huge_pages| {
            let mut placing = Placing::new(Weights::Auto);
            placing.measured(Bandwidth { small_pages, huge_pages });
            (placing.copies(1), placing.to_string())
        };
        let (copied, said) = decided(30.0, 31.0);
        assert!(!copied && said.contains("mapped: huge pages are read 1.03 times"), "{said}");
        let (copied, said) = decided(30.0, 45.0);
        assert!(said.contains("copied: huge pages are read 1.50 times"), "{said}");
        // On a machine that is full, or does not tell, the copy is not made, and a full one says so.
        assert!(copied || memory().is_none() || said.contains("memory is short"), "{said}");
        assert!(!Placing::new(Weights::Mapped).copies(1) && Placing::new(Weights::Copied).copies(1));
    }

    #[test]
    fn what_does_not_fit_stays_mapped() {
        let mut placing = Placing::new(Weights::Auto);
        placing.measured(Bandwidth { small_pages: 1.0, huge_pages: 2.0 });
        assert!(!placing.copies(1 << 60));
        assert!(placing.to_string().contains("memory is short"), "{placing}");
    }
}
